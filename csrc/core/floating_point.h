// The floating-point environment that values are defined in (contract C8).
#pragma once

#include <cstdint>

#include "core/macros.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastinit {

// While it lives, this thread rounds to nearest and keeps subnormal numbers, whatever the caller's rounding mode and
// torch.set_flush_denormal are.
class DefaultFloatingPoint {
 public:
#if defined(__x86_64__)
  FASTINIT_INLINE DefaultFloatingPoint() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  FASTINIT_INLINE ~DefaultFloatingPoint() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FASTINIT_INLINE DefaultFloatingPoint() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  FASTINIT_INLINE ~DefaultFloatingPoint() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace fastinit
