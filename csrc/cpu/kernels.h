// The loops of cpu/kernels.cpp, compiled once per instruction set.
#pragma once

#include <cstddef>

#include "core/fill.h"

namespace fastinit {
namespace cpu {

// A fill as the loops take it: with the alternative, not the variant, whose functions all instruction sets would share.
struct Job {
  const Region& region;
  void* data;
  Key key;
  const void* distribution;
  bool streaming;  // past the caches
};
// Fills elements begin .. end - 1 of the region.
using FillPart = void (*)(const Job& job, int64_t begin, int64_t end);

}  // namespace cpu

// The loop for this alternative of Distribution and this dtype.
#define FASTINIT_DECLARE(TARGET)                            \
  namespace TARGET {                                        \
  cpu::FillPart fill_part(size_t alternative, DType dtype); \
  }
FASTINIT_DECLARE(baseline)
#if defined(__x86_64__)
FASTINIT_DECLARE(avx2)
FASTINIT_DECLARE(avx512)
#endif
#undef FASTINIT_DECLARE

}  // namespace fastinit
