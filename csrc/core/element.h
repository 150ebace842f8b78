// The types a tensor can hold, and the one rounding from the arithmetic's type to them (contract C8).
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/macros.h"

namespace fastinit {

enum class DType { f32, f64, f16, bf16, f8_e4m3fn, f8_e4m3fnuz, f8_e5m2, f8_e5m2fnuz };

// 16-bit storage. The values in between are always float32.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
// 8-bit storage, in the format that the dtype says.
struct Float8 {
  uint8_t bits;
};
FASTINIT_INLINE constexpr bool is_float8(DType dtype) { return dtype >= DType::f8_e4m3fn; }
FASTINIT_INLINE constexpr int64_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : is_float8(dtype) ? 1 : 2;
}

// P. Micikevicius et al.: "FP8 formats for deep learning", 2022; "fnuz" (finite, no negative zero): B. Noune et al.: "8-bit
// numerical formats for deep neural networks", 2022.
struct Float8Format {
  uint32_t mantissa, bias;
  uint32_t largest;    // of the bits without the sign, that of the largest number
  uint32_t overflow;   // what larger numbers become, as in torch's cast: that one, infinity, or NaN
  bool unsigned_zero;  // the bits of -0 are NaN
};
FASTINIT_INLINE constexpr Float8Format format_of(DType dtype) {
  switch (dtype) {
    case DType::f8_e4m3fnuz:
      return {3, 8, 0x7F, 0x80, true};
    case DType::f8_e5m2:
      return {2, 15, 0x7B, 0x7C, false};
    case DType::f8_e5m2fnuz:
      return {2, 16, 0x7F, 0x80, true};
    default:
      return {3, 7, 0x7E, 0x7E, false};
  }
}
// Whether numbers beyond the largest become the largest.
FASTINIT_INLINE constexpr bool saturates(DType dtype) {
  return is_float8(dtype) && format_of(dtype).overflow == format_of(dtype).largest;
}

// The type the arithmetic for T is done in.
template <class T>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};
template <class T>
using ArithmeticFor = typename ArithmeticOf<T>::type;
template <class R>
constexpr DType dtype_of_arithmetic = sizeof(R) == sizeof(double) ? DType::f64 : DType::f32;

template <class To, class From>
FASTINIT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// The arithmetic's type to T, to nearest, ties to even. Never NaN on input; overflow gives infinity.
template <class T>
FASTINIT_INLINE T round_to(ArithmeticFor<T> x);

template <>
FASTINIT_INLINE float round_to<float>(float x) {
  return x;
}

template <>
FASTINIT_INLINE double round_to<double>(double x) {
  return x;
}

template <>
FASTINIT_INLINE BFloat16 round_to<BFloat16>(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  return {static_cast<uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16)};
}

template <>
FASTINIT_INLINE Half round_to<Half>(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return {h};
#else
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7FFFFFFFu;
  uint32_t h;
  if (magnitude >= 0x47800000u) {  // 2^16 and above, infinity
    h = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // normal in float16; the carry may reach infinity, rightly
    h = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  } else {  // subnormal: adding 1/2 puts the rounding where float16's last bit is
    h = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  }
  return {static_cast<uint16_t>(sign | h)};
#endif
}

// The magnitude of x in that format, to nearest, ties to even; more than `largest` where it overflows. A sum whose last bit
// is worth as much as the format's does the rounding, of normal and of subnormal numbers alike.
FASTINIT_INLINE uint32_t float8_magnitude(const Float8Format& format, float x) {
  constexpr uint32_t exponents = 0x7F800000u, beyond = 0x48000000u;  // 2^17
  const uint32_t least = (128 - format.bias) << 23, unit = (23 - format.mantissa) << 23;
  uint32_t magnitude = bit_cast<uint32_t>(x) & 0x7FFFFFFFu;
  magnitude = magnitude < beyond ? magnitude : beyond;
  uint32_t exponent = magnitude & exponents;
  exponent = exponent > least ? exponent : least;
  const uint32_t sum = bit_cast<uint32_t>(bit_cast<float>(magnitude) + bit_cast<float>(exponent + unit));
  return sum - (exponent + unit) + ((exponent - least) >> (23 - format.mantissa));
}

FASTINIT_INLINE Float8 round_to_float8(const Float8Format& format, float x) {
  uint32_t bits = float8_magnitude(format, x);
  bits = bits < format.overflow ? bits : format.overflow;
  const uint32_t sign = (bit_cast<uint32_t>(x) >> 24) & 0x80u;
  return {static_cast<uint8_t>(format.unsigned_zero && (bits & 0x7Fu) == 0 ? bits : bits | sign)};
}

// What rounds to T besides the value itself: the format, where T does not say it.
template <class T>
struct Rounding {
  FASTINIT_INLINE explicit Rounding(DType) {}
  FASTINIT_INLINE T operator()(ArithmeticFor<T> x) const { return round_to<T>(x); }
};
template <>
struct Rounding<Float8> {
  Float8Format format;
  FASTINIT_INLINE explicit Rounding(DType dtype) : format(format_of(dtype)) {}
  FASTINIT_INLINE Float8 operator()(float x) const { return round_to_float8(format, x); }
};

// The value of T's bits, exactly.
FASTINIT_INLINE float widen(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

FASTINIT_INLINE float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, rest = x.bits & 0x7FFFu;
  const uint32_t exponent = rest >= 0x7C00u ? 0x70000000u : 0x38000000u;  // infinity stays one
  const float magnitude = rest >= 0x0400u ? bit_cast<float>((rest << 13) + exponent)
                                          : static_cast<float>(rest) * 0x1p-24f;  // subnormal or zero
  return bit_cast<float>(sign | bit_cast<uint32_t>(magnitude));
}

FASTINIT_INLINE float widen(float x) { return x; }
FASTINIT_INLINE double widen(double x) { return x; }

// Calls f(T()), with the T of this dtype among those whose arithmetic is R.
template <class R, class F>
inline __attribute__((always_inline)) auto with_type(DType dtype, const F& f) {
  if constexpr (sizeof(R) == sizeof(double)) {
    return f(double());
  } else {
    return is_float8(dtype)       ? f(Float8())
           : dtype == DType::f16  ? f(Half())
           : dtype == DType::bf16 ? f(BFloat16())
                                  : f(float());
  }
}

// The largest number of T below x, which is one itself.
template <class T>
ArithmeticFor<T> below(ArithmeticFor<T> x) {
  using B =
      std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  constexpr B sign = static_cast<B>(B{1} << (8 * sizeof(T) - 1));
  B bits = bit_cast<B>(round_to<T>(x));
  if (bits == 0) bits = sign;  // below +0 as below -0
  bits = static_cast<B>((bits & sign) != 0 ? bits + 1 : bits - 1);
  return widen(bit_cast<T>(bits));
}

// Numbers of a float8 format, counted from zero; infinity comes after the largest.
inline double float8_number(const Float8Format& format, int count) {
  const uint32_t bits = static_cast<uint32_t>(count < 0 ? -count : count), m = format.mantissa;
  const uint32_t exponent = bits >> m, fraction = bits & ((1u << m) - 1);
  const double unit =
      bit_cast<double>((1024 + uint64_t{exponent != 0 ? exponent - 1 : 0} - format.bias - m) << 52);
  const double x = bits > format.largest ? HUGE_VAL : ((exponent != 0 ? 1u << m : 0) + fraction) * unit;
  return count < 0 ? -x : x;
}
inline int float8_count(const Float8Format& format, double x) {
  const uint32_t bits = float8_magnitude(format, static_cast<float>(x));
  const int count = static_cast<int>(bits > format.largest ? format.largest + 1 : bits);
  return x < 0 ? -count : count;
}

inline double below(DType dtype, double x) {
  switch (dtype) {
    case DType::f64:
      return below<double>(x);
    case DType::f32:
      return below<float>(static_cast<float>(x));
    case DType::f16:
      return below<Half>(static_cast<float>(x));
    case DType::bf16:
      return below<BFloat16>(static_cast<float>(x));
    default:
      return float8_number(format_of(dtype), float8_count(format_of(dtype), x) - 1);
  }
}

// The number of the dtype that x rounds to; the largest that is x or less, and the smallest that is x or more (infinities
// where there is none); the largest of all.
inline double round_nearest(DType dtype, double x) {
  switch (dtype) {
    case DType::f64:
      return x;
    case DType::f32:
      return static_cast<float>(x);
    case DType::f16:
      return widen(round_to<Half>(static_cast<float>(x)));
    case DType::bf16:
      return widen(round_to<BFloat16>(static_cast<float>(x)));
    default:
      return float8_number(format_of(dtype), float8_count(format_of(dtype), x));
  }
}
inline double round_down(DType dtype, double x) {
  const double nearest = round_nearest(dtype, x);
  return nearest > x ? below(dtype, nearest) : nearest;
}
inline double round_up(DType dtype, double x) { return -round_down(dtype, -x); }
inline double highest(DType dtype) { return round_down(dtype, 0x1.fffffffffffffp1023); }

}  // namespace fastinit
