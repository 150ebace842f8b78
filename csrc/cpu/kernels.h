// The loops of cpu/kernels.cpp, compiled once per instruction set.
#pragma once

#include "core/region.h"

namespace fastinit {

#define FASTINIT_DECLARE(TARGET)                                                      \
  namespace TARGET {                                                                  \
  /* Fills elements begin .. end - 1 of the region. `streaming`: past the caches. */  \
  template <class Distribution>                                                       \
  void fill(const Fill<Distribution>& f, int64_t begin, int64_t end, bool streaming); \
  }
FASTINIT_DECLARE(baseline)
#if defined(__x86_64__)
FASTINIT_DECLARE(avx2)
FASTINIT_DECLARE(avx512)
#endif
#undef FASTINIT_DECLARE

}  // namespace fastinit
