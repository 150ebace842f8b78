// AVX2 lanes (with FMA, F16C and BMI): four blocks side by side. The meaning of each operation is the
// portable one in core/lanes.h. Masks are vectors of which only the top bit of each lane counts.
#pragma once

#include <immintrin.h>

#include "cpu/lanes_vector.h"

namespace fastinit {

struct Avx2 {
  static constexpr int blocks = 4;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // that they may alias, of which nothing here makes use
  using U32 = Vector<Avx2, uint32_t, __m256i>;
  using U64 = Vector<Avx2, uint64_t, __m256i>;
  using F32 = Vector<Avx2, float, __m256>;
  using F64 = Vector<Avx2, double, __m256d>;
  using M32 = Mask<Avx2, 8, __m256>;
  using M64 = Mask<Avx2, 4, __m256d>;
#pragma GCC diagnostic pop

  static FASTINIT_INLINE __m256i all(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static FASTINIT_INLINE __m256i all(uint64_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  static FASTINIT_INLINE __m256 all(float x) { return _mm256_set1_ps(x); }
  static FASTINIT_INLINE __m256d all(double x) { return _mm256_set1_pd(x); }
  static FASTINIT_INLINE __m256i load_words(const uint32_t* p, uint32_t) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static FASTINIT_INLINE __m256i load_words(const uint32_t* p, uint64_t) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  // See Avx512: unpacking within 128-bit lanes then gives memory order.
  static FASTINIT_INLINE U64 block_offsets() { return _mm256_setr_epi64x(0, 2, 1, 3); }
  static FASTINIT_INLINE U64 blocks_at(const uint32_t* p) {
    return _mm256_permute4x64_epi64(load_words(p, uint64_t()), 0xD8);
  }
  template <class F>
  static FASTINIT_INLINE M32 mask_of(const F& bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i own = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits(0))), bit);
    return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(own, bit))};
  }

  // clang-format off
#define FASTINIT_OP(RESULT, NAME, PARAMETERS, EXPRESSION) \
  friend FASTINIT_INLINE RESULT NAME PARAMETERS { return {EXPRESSION}; }
  FASTINIT_OP(U32, min, (U32 a, U32 b), _mm256_min_epu32(a.v, b.v))
  FASTINIT_OP(U32, multiply_high, (U32 a, U32 b),
      _mm256_blend_epi32(_mm256_srli_epi64(_mm256_mul_epu32(a.v, b.v), 32),
                         _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), _mm256_srli_epi64(b.v, 32)), 0xAA))
  FASTINIT_OP(U32, shift_right, (U32 a, int bits), _mm256_srl_epi32(a.v, _mm_cvtsi32_si128(bits)))
  FASTINIT_OP(U32, swap_halves, (U32 a), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(a.v, 0xB1), 0xB1))
  FASTINIT_OP(F32, as_real, (U32 a), _mm256_castsi256_ps(a.v))
  FASTINIT_OP(U32, as_bits, (F32 a), _mm256_castps_si256(a.v))
  FASTINIT_OP(F32, signed_to_real, (U32 a), _mm256_cvtepi32_ps(a.v))
  FASTINIT_OP(M32, less_equal, (U32 a, U32 b),
      _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_min_epu32(a.v, b.v), a.v)))
  FASTINIT_OP(M32, equal, (U32 a, U32 b), _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v)))

  FASTINIT_OP(U64, xor3, (U64 a, U64 b, U64 c), _mm256_xor_si256(_mm256_xor_si256(b.v, c.v), a.v))
  FASTINIT_OP(U64, multiply_low, (U64 a, U64 b), _mm256_mul_epu32(a.v, b.v))
  FASTINIT_OP(F64, as_real, (U64 a), _mm256_castsi256_pd(a.v))
  FASTINIT_OP(U64, as_bits, (F64 a), _mm256_castpd_si256(a.v))

  FASTINIT_OP(F32, fma, (F32 a, F32 b, F32 c), _mm256_fmadd_ps(a.v, b.v, c.v))
  FASTINIT_OP(F32, sqrt, (F32 a), _mm256_sqrt_ps(a.v))
  FASTINIT_OP(F32, magnitude, (F32 a), _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v))
  FASTINIT_OP(F32, min, (F32 a, F32 b), _mm256_min_ps(a.v, b.v))
  FASTINIT_OP(F32, max, (F32 a, F32 b), _mm256_max_ps(a.v, b.v))
  FASTINIT_OP(M32, less, (F32 a, F32 b), _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))
  FASTINIT_OP(M32, less_equal, (F32 a, F32 b), _mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ))

  FASTINIT_OP(F64, fma, (F64 a, F64 b, F64 c), _mm256_fmadd_pd(a.v, b.v, c.v))
  FASTINIT_OP(F64, sqrt, (F64 a), _mm256_sqrt_pd(a.v))
  FASTINIT_OP(F64, magnitude, (F64 a), _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v))
  FASTINIT_OP(F64, min, (F64 a, F64 b), _mm256_min_pd(a.v, b.v))
  FASTINIT_OP(F64, max, (F64 a, F64 b), _mm256_max_pd(a.v, b.v))
  FASTINIT_OP(M64, less, (F64 a, F64 b), _mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ))
  FASTINIT_OP(M64, less_equal, (F64 a, F64 b), _mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ))

  friend FASTINIT_INLINE uint64_t lane_bits(M32 m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.v)); }
  FASTINIT_OP(M32, operator&, (M32 a, M32 b), _mm256_and_ps(a.v, b.v))
  FASTINIT_OP(M32, operator|, (M32 a, M32 b), _mm256_or_ps(a.v, b.v))
  FASTINIT_OP(M32, operator!, (M32 a), _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f)))
  FASTINIT_OP(M64, operator&, (M64 a, M64 b), _mm256_and_pd(a.v, b.v))
  FASTINIT_OP(M64, operator|, (M64 a, M64 b), _mm256_or_pd(a.v, b.v))
  FASTINIT_OP(M64, operator!, (M64 a), _mm256_xor_pd(a.v, _mm256_set1_pd(-0.0)))
  FASTINIT_OP(U32, select, (M32 m, U32 yes, U32 no),
      _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(no.v), _mm256_castsi256_ps(yes.v), m.v)))
  FASTINIT_OP(F32, select, (M32 m, F32 yes, F32 no), _mm256_blendv_ps(no.v, yes.v, m.v))
  FASTINIT_OP(U64, select, (M64 m, U64 yes, U64 no),
      _mm256_castpd_si256(_mm256_blendv_pd(_mm256_castsi256_pd(no.v), _mm256_castsi256_pd(yes.v), m.v)))
  FASTINIT_OP(F64, select, (M64 m, F64 yes, F64 no), _mm256_blendv_pd(no.v, yes.v, m.v))

  FASTINIT_OP(U32, interleave, (U64 a, U64 b), _mm256_blend_epi32(a.v, _mm256_slli_epi64(b.v, 32), 0xAA))
  FASTINIT_OP(U64, join, (U64 a, U64 b), _mm256_blend_epi32(a.v, _mm256_slli_epi64(b.v, 32), 0xAA))
  FASTINIT_OP(U64, even, (U32 a), a.v)  // a word's lane may hold anything in its high half
  FASTINIT_OP(U64, odd, (U32 a), _mm256_srli_epi64(a.v, 32))
#undef FASTINIT_OP
  // clang-format on

  friend FASTINIT_INLINE M32 less(U32 a, U32 b) { return !less_equal(b, a); }

  // Both halves become doubles exactly (they go into the mantissas of 2^84 + 2^63 and 2^52); the sum is the one rounding.
  friend FASTINIT_INLINE F64 signed_to_real(U64 a) {
    const __m256i high_magic = _mm256_set1_epi64x(0x4530000080000000);  // 2^84 + 2^63
    const __m256i low_magic = _mm256_set1_epi64x(0x4330000000000000);   // 2^52
    const __m256i high = _mm256_xor_si256(_mm256_srli_epi64(a.v, 32), high_magic);
    const __m256i low = _mm256_blend_epi32(a.v, low_magic, 0xAA);
    const __m256d h = _mm256_sub_pd(_mm256_castsi256_pd(high), _mm256_set1_pd(0x1p84 + 0x1p63));
    const __m256d l = _mm256_sub_pd(_mm256_castsi256_pd(low), _mm256_set1_pd(0x1p52));
    return _mm256_add_pd(h, l);
  }
};

template <int Bits>
FASTINIT_INLINE Avx2::U32 shift_left(Avx2::U32 a) {
  return _mm256_slli_epi32(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Avx2::U32 shift_right(Avx2::U32 a) {
  return _mm256_srli_epi32(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Avx2::U64 shift_left(Avx2::U64 a) {
  return _mm256_slli_epi64(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Avx2::U64 shift_right(Avx2::U64 a) {
  return _mm256_srli_epi64(a.v, Bits);
}
template <int Bit>
FASTINIT_INLINE Avx2::M32 test_bit(Avx2::U32 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a.v, 31 - Bit))};
}
template <int Bit>
FASTINIT_INLINE Avx2::M64 test_bit(Avx2::U64 a) {
  return {_mm256_castsi256_pd(_mm256_slli_epi64(a.v, 63 - Bit))};
}

FASTINIT_INLINE void store(float* p, Avx2::F32 a) { _mm256_storeu_ps(p, a.v); }
FASTINIT_INLINE void store(double* p, Avx2::F64 a) { _mm256_storeu_pd(p, a.v); }
FASTINIT_INLINE void store(uint32_t* p, Avx2::U32 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}

// The positions of the selected lanes, one a byte, moved together by pext.
FASTINIT_INLINE int store_selected(uint32_t* p, Avx2::M32 mask, Avx2::U32 a) {
  const uint32_t bits = static_cast<uint32_t>(_mm256_movemask_ps(mask.v));
  const uint64_t bytes = _pdep_u64(bits, 0x0101010101010101u) * 0xFF;
  const __m128i order = _mm_cvtsi64_si128(static_cast<long long>(_pext_u64(0x0706050403020100u, bytes)));
  store(p, Avx2::U32(_mm256_permutevar8x32_epi32(a.v, _mm256_cvtepu8_epi32(order))));
  return __builtin_popcount(bits);
}
FASTINIT_INLINE int store_selected(uint32_t* p, Avx2::M64 mask, Avx2::U64 a) {
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a.v);
  int count = 0;
  for (uint32_t bits = static_cast<uint32_t>(_mm256_movemask_pd(mask.v)); bits != 0; bits &= bits - 1) {
    p[count++] = static_cast<uint32_t>(lanes[__builtin_ctz(bits)]);
  }
  return count;
}

FASTINIT_INLINE void store_zeros(float* p, Avx2::M32 mask) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(mask.v), _mm256_setzero_ps());
}
FASTINIT_INLINE void store_zeros(double* p, Avx2::M32 mask) {
  const __m256i m = _mm256_castps_si256(mask.v);
  _mm256_maskstore_pd(p, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(m)), _mm256_setzero_pd());
  _mm256_maskstore_pd(p + 4, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(m, 1)), _mm256_setzero_pd());
}
template <class T>
FASTINIT_INLINE void store_zeros(T* p, Avx2::M32 mask) {
  static_assert(sizeof(T) == 2, "Half and BFloat16");
  const __m256i m = _mm256_srai_epi32(_mm256_castps_si256(mask.v), 31);
  const __m128i zero = _mm_packs_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  __m128i* const to = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(to, _mm_andnot_si128(zero, _mm_loadu_si128(to)));
}

namespace avx2_detail {

template <bool Streaming>
FASTINIT_INLINE void put(void* p, __m256i x) {
  if constexpr (Streaming) {
    _mm256_stream_si256(static_cast<__m256i*>(p), x);
  } else {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x);
  }
}

// float32 to bfloat16 in the high half of each lane; the low half is undefined.
FASTINIT_INLINE __m256i round_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
}

}  // namespace avx2_detail

template <bool Streaming>
FASTINIT_INLINE void store_pairs(float* p, Avx2::F32 first, Avx2::F32 second) {
  avx2_detail::put<Streaming>(p, _mm256_castps_si256(_mm256_unpacklo_ps(first.v, second.v)));
  avx2_detail::put<Streaming>(p + 8, _mm256_castps_si256(_mm256_unpackhi_ps(first.v, second.v)));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(double* p, Avx2::F64 first, Avx2::F64 second) {
  avx2_detail::put<Streaming>(p, _mm256_castpd_si256(_mm256_unpacklo_pd(first.v, second.v)));
  avx2_detail::put<Streaming>(p + 4, _mm256_castpd_si256(_mm256_unpackhi_pd(first.v, second.v)));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(Half* p, Avx2::F32 first, Avx2::F32 second) {
  const __m128i low = _mm256_cvtps_ph(_mm256_unpacklo_ps(first.v, second.v), _MM_FROUND_TO_NEAREST_INT);
  const __m128i high = _mm256_cvtps_ph(_mm256_unpackhi_ps(first.v, second.v), _MM_FROUND_TO_NEAREST_INT);
  avx2_detail::put<Streaming>(p, _mm256_set_m128i(high, low));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(BFloat16* p, Avx2::F32 first, Avx2::F32 second) {
  const __m256i low = _mm256_srli_epi32(avx2_detail::round_bf16(first.v), 16);
  const __m256i both = _mm256_blend_epi16(low, avx2_detail::round_bf16(second.v), 0xAA);
  avx2_detail::put<Streaming>(p, _mm256_permute4x64_epi64(both, 0xD8));
}

}  // namespace fastinit
