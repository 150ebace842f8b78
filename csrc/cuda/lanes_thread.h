// A GPU thread as lanes: one block. Its operations are the portable ones of core/lanes.h; the overloads below say the
// same in the instructions that a compiler does not find by itself. Compiled for the host, where the tests run the
// GPU's loops, they are plain C++ again.
#pragma once

#include <type_traits>

#include "core/lanes.h"

namespace fastinit {

struct Thread : Portable<1> {};

#if defined(__CUDA_ARCH__)
// One wide multiplication. From the portable form nvcc makes a full 64-bit product.
__device__ __forceinline__ Array<uint64_t, 1> multiply_low(Array<uint64_t, 1> a, Array<uint64_t, 1> b) {
  Array<uint64_t, 1> r;
  asm("mul.wide.u32 %0, %1, %2;"
      : "=l"(r.v[0])
      : "r"(static_cast<uint32_t>(a.v[0])), "r"(static_cast<uint32_t>(b.v[0])));
  return r;
}

// In asm so that the compiler sees where the 64-bit lanes end: left to itself it tests bits of a word in all 64.
__device__ __forceinline__ uint32_t low_word(uint64_t x) {
  uint32_t r;
  asm("cvt.u32.u64 %0, %1;" : "=r"(r) : "l"(x));
  return r;
}
__device__ __forceinline__ Array<uint32_t, 2> interleave(Array<uint64_t, 1> a, Array<uint64_t, 1> b) {
  Array<uint32_t, 2> r;
  r.v[0] = low_word(a.v[0]);
  r.v[1] = low_word(b.v[0]);
  return r;
}

// From "x & 1" nvcc makes two instructions, from the bit of a mask that it does not know, one.
template <int Bit>
__device__ __forceinline__ Array<bool, 2> test_bit(Array<uint32_t, 2> x) {
  uint32_t mask;
  asm("mov.b32 %0, %1;" : "=r"(mask) : "n"(1u << Bit));
  Array<bool, 2> r;
  FASTINIT_UNROLL
  for (int i = 0; i < 2; ++i) r.v[i] = (x.v[i] & mask) != 0;
  return r;
}

__device__ __forceinline__ Array<float, 2> smaller(Array<float, 2> a, Array<float, 2> b) {
  FASTINIT_UNROLL
  for (int i = 0; i < 2; ++i) a.v[i] = ::fminf(a.v[i], b.v[i]);
  return a;
}

// Correctly rounded between 2^-100 and 2^126; squared radii lie between 2^-33 and 46. These are the operations that
// nvcc makes of sqrt.rn.f32 itself for every architecture from sm_75 to sm_121, less the test for arguments outside
// that range and the branch it takes: a twelfth of the instructions of a normal value.
__device__ __forceinline__ Array<float, 2> sqrt(Array<float, 2> x) {
  FASTINIT_UNROLL
  for (int i = 0; i < 2; ++i) {
    float reciprocal;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x.v[i]));
    const float root = x.v[i] * reciprocal, half = reciprocal * 0.5f;
    x.v[i] = ::fmaf(::fmaf(-root, root, x.v[i]), half, root);
  }
  return x;
}

// Correctly rounded where neither operand nor the quotient is anywhere near the ends of float32's range; those of a quantile
// lie between 2^-8 and 2^14. As with the square root, these are the operations that nvcc makes of div.rn.f32 itself, less the
// test for other operands and the call it takes.
__device__ __forceinline__ Array<float, 2> operator/(Array<float, 2> a, Array<float, 2> b) {
  FASTINIT_UNROLL
  for (int i = 0; i < 2; ++i) {
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(b.v[i]));
    reciprocal = ::fmaf(reciprocal, ::fmaf(-b.v[i], reciprocal, 1.0f), reciprocal);
    const float quotient = a.v[i] * reciprocal;
    a.v[i] = ::fmaf(reciprocal, ::fmaf(-b.v[i], quotient, a.v[i]), quotient);
  }
  return a;
}
#endif

// Two 16-bit values in one word, the first one low.
template <class T>
FASTINIT_INLINE uint32_t round_two(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t r;
  if constexpr (std::is_same_v<T, Half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
  }
  return r;
#else
  return round_to<T>(first).bits | static_cast<uint32_t>(round_to<T>(second).bits) << 16;
#endif
}

// The values of a block, rounded to T and in order, as the 32-bit words they are in memory.
template <class T>
FASTINIT_INLINE void store_words(uint32_t* words, Array<float, 2> first, Array<float, 2> second,
                                 const Rounding<T>& rounding) {
  if constexpr (sizeof(T) == 1) {
    const auto bits = [&](float x) { return uint32_t{rounding(x).bits}; };
    *words = bits(first.v[0]) | bits(second.v[0]) << 8 | bits(first.v[1]) << 16 | bits(second.v[1]) << 24;
  } else {
    FASTINIT_UNROLL
    for (int i = 0; i < 2; ++i) {
      if constexpr (sizeof(T) == 2) {
        words[i] = round_two<T>(first.v[i], second.v[i]);
      } else {
        words[2 * i] = bit_cast<uint32_t>(first.v[i]);
        words[2 * i + 1] = bit_cast<uint32_t>(second.v[i]);
      }
    }
  }
}
template <class T>
FASTINIT_INLINE void store_words(uint32_t* words, Array<double, 1> first, Array<double, 1> second,
                                 const Rounding<T>&) {
  const uint64_t bits[2] = {bit_cast<uint64_t>(first.v[0]), bit_cast<uint64_t>(second.v[0])};
  FASTINIT_UNROLL
  for (int i = 0; i < 2; ++i) {
    words[2 * i] = static_cast<uint32_t>(bits[i]);
    words[2 * i + 1] = static_cast<uint32_t>(bits[i] >> 32);
  }
}

}  // namespace fastinit
