// AVX-512 lanes (F, BW, DQ, VL, CD): eight blocks side by side. The meaning of each operation is the
// portable one in core/lanes.h.
#pragma once

// GCC 11 and 12 take the deliberately undefined registers of their own header for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include "cpu/lanes_vector.h"

namespace fastinit {

struct Avx512 {
  static constexpr int blocks = 8;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // that they may alias, of which nothing here makes use
  using U32 = Vector<Avx512, uint32_t, __m512i>;
  using U64 = Vector<Avx512, uint64_t, __m512i>;
  using F32 = Vector<Avx512, float, __m512>;
  using F64 = Vector<Avx512, double, __m512d>;
  using M32 = Mask<Avx512, 16, __mmask16>;
  using M64 = Mask<Avx512, 8, __mmask8>;
#pragma GCC diagnostic pop

  static FASTINIT_INLINE __m512i all(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static FASTINIT_INLINE __m512i all(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static FASTINIT_INLINE __m512 all(float x) { return _mm512_set1_ps(x); }
  static FASTINIT_INLINE __m512d all(double x) { return _mm512_set1_pd(x); }
  static FASTINIT_INLINE __m512i load_words(const uint32_t* p, uint32_t) { return _mm512_loadu_si512(p); }
  static FASTINIT_INLINE __m512i load_words(const uint32_t* p, uint64_t) {
    return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  // Unpacking low and high halves of 128-bit lanes puts results into memory order when the even 64-bit
  // lanes hold the first four blocks and the odd ones the next four.
  static FASTINIT_INLINE U64 block_offsets() { return _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); }
  static FASTINIT_INLINE U64 blocks_at(const uint32_t* p) {
    const __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_maskz_permutexvar_epi32(
        0x5555, _mm512_setr_epi32(0, 0, 4, 0, 1, 0, 5, 0, 2, 0, 6, 0, 3, 0, 7, 0), words);
  }
  template <class F>
  static FASTINIT_INLINE M32 mask_of(const F& bits) {
    return {static_cast<__mmask16>(bits(0))};
  }

  // clang-format off
#define FASTINIT_OP(RESULT, NAME, PARAMETERS, EXPRESSION) \
  friend FASTINIT_INLINE RESULT NAME PARAMETERS { return {EXPRESSION}; }
  FASTINIT_OP(U32, min, (U32 a, U32 b), _mm512_min_epu32(a.v, b.v))
  FASTINIT_OP(U32, multiply_high, (U32 a, U32 b),
      _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(_mm512_mul_epu32(a.v, b.v), 32),
                              _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32))))
  FASTINIT_OP(U32, shift_right, (U32 a, int bits), _mm512_srl_epi32(a.v, _mm_cvtsi32_si128(bits)))
  FASTINIT_OP(U32, swap_halves, (U32 a), _mm512_rol_epi32(a.v, 16))
  FASTINIT_OP(F32, as_real, (U32 a), _mm512_castsi512_ps(a.v))
  FASTINIT_OP(U32, as_bits, (F32 a), _mm512_castps_si512(a.v))
  FASTINIT_OP(F32, signed_to_real, (U32 a), _mm512_cvtepi32_ps(a.v))
  FASTINIT_OP(M32, less, (U32 a, U32 b), _mm512_cmplt_epu32_mask(a.v, b.v))
  FASTINIT_OP(M32, less_equal, (U32 a, U32 b), _mm512_cmple_epu32_mask(a.v, b.v))
  FASTINIT_OP(M32, equal, (U32 a, U32 b), _mm512_cmpeq_epi32_mask(a.v, b.v))

  FASTINIT_OP(U64, xor3, (U64 a, U64 b, U64 c), _mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96))
  FASTINIT_OP(U64, multiply_low, (U64 a, U64 b), _mm512_mul_epu32(a.v, b.v))
  FASTINIT_OP(F64, as_real, (U64 a), _mm512_castsi512_pd(a.v))
  FASTINIT_OP(U64, as_bits, (F64 a), _mm512_castpd_si512(a.v))
  FASTINIT_OP(F64, signed_to_real, (U64 a), _mm512_cvtepi64_pd(a.v))

  FASTINIT_OP(F32, fma, (F32 a, F32 b, F32 c), _mm512_fmadd_ps(a.v, b.v, c.v))
  FASTINIT_OP(F32, sqrt, (F32 a), _mm512_sqrt_ps(a.v))
  FASTINIT_OP(F32, magnitude, (F32 a), _mm512_abs_ps(a.v))
  FASTINIT_OP(F32, min, (F32 a, F32 b), _mm512_min_ps(a.v, b.v))
  FASTINIT_OP(F32, max, (F32 a, F32 b), _mm512_max_ps(a.v, b.v))
  FASTINIT_OP(M32, less, (F32 a, F32 b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ))
  FASTINIT_OP(M32, less_equal, (F32 a, F32 b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ))

  FASTINIT_OP(F64, fma, (F64 a, F64 b, F64 c), _mm512_fmadd_pd(a.v, b.v, c.v))
  FASTINIT_OP(F64, sqrt, (F64 a), _mm512_sqrt_pd(a.v))
  FASTINIT_OP(F64, magnitude, (F64 a), _mm512_abs_pd(a.v))
  FASTINIT_OP(F64, min, (F64 a, F64 b), _mm512_min_pd(a.v, b.v))
  FASTINIT_OP(F64, max, (F64 a, F64 b), _mm512_max_pd(a.v, b.v))
  FASTINIT_OP(M64, less, (F64 a, F64 b), _mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ))
  FASTINIT_OP(M64, less_equal, (F64 a, F64 b), _mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ))

  friend FASTINIT_INLINE uint64_t lane_bits(M32 m) { return m.v; }
  FASTINIT_OP(M32, operator&, (M32 a, M32 b), static_cast<__mmask16>(a.v & b.v))
  FASTINIT_OP(M32, operator|, (M32 a, M32 b), static_cast<__mmask16>(a.v | b.v))
  FASTINIT_OP(M32, operator!, (M32 a), static_cast<__mmask16>(~a.v))
  FASTINIT_OP(M64, operator&, (M64 a, M64 b), static_cast<__mmask8>(a.v & b.v))
  FASTINIT_OP(M64, operator|, (M64 a, M64 b), static_cast<__mmask8>(a.v | b.v))
  FASTINIT_OP(M64, operator!, (M64 a), static_cast<__mmask8>(~a.v))
  FASTINIT_OP(U32, select, (M32 m, U32 yes, U32 no), _mm512_mask_blend_epi32(m.v, no.v, yes.v))
  FASTINIT_OP(F32, select, (M32 m, F32 yes, F32 no), _mm512_mask_blend_ps(m.v, no.v, yes.v))
  FASTINIT_OP(U64, select, (M64 m, U64 yes, U64 no), _mm512_mask_blend_epi64(m.v, no.v, yes.v))
  FASTINIT_OP(F64, select, (M64 m, F64 yes, F64 no), _mm512_mask_blend_pd(m.v, no.v, yes.v))

  FASTINIT_OP(U32, interleave, (U64 a, U64 b), _mm512_mask_blend_epi32(0xAAAA, a.v, _mm512_slli_epi64(b.v, 32)))
  FASTINIT_OP(U64, join, (U64 a, U64 b), _mm512_mask_blend_epi32(0xAAAA, a.v, _mm512_slli_epi64(b.v, 32)))
  FASTINIT_OP(U64, even, (U32 a), a.v)  // a word's lane may hold anything in its high half
  FASTINIT_OP(U64, odd, (U32 a), _mm512_srli_epi64(a.v, 32))
#undef FASTINIT_OP
  // clang-format on
};

template <int Bits>
FASTINIT_INLINE Avx512::U32 shift_left(Avx512::U32 a) {
  return _mm512_slli_epi32(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Avx512::U32 shift_right(Avx512::U32 a) {
  return _mm512_srli_epi32(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Avx512::U64 shift_left(Avx512::U64 a) {
  return _mm512_slli_epi64(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Avx512::U64 shift_right(Avx512::U64 a) {
  return _mm512_srli_epi64(a.v, Bits);
}
template <int Bit>
FASTINIT_INLINE Avx512::M32 test_bit(Avx512::U32 a) {
  return {_mm512_test_epi32_mask(a.v, _mm512_set1_epi32(static_cast<int>(1u << Bit)))};
}
template <int Bit>
FASTINIT_INLINE Avx512::M64 test_bit(Avx512::U64 a) {
  return {_mm512_test_epi64_mask(a.v, _mm512_set1_epi64(static_cast<long long>(1ull << Bit)))};
}

FASTINIT_INLINE void store(float* p, Avx512::F32 a) { _mm512_storeu_ps(p, a.v); }
FASTINIT_INLINE void store(double* p, Avx512::F64 a) { _mm512_storeu_pd(p, a.v); }
FASTINIT_INLINE void store(uint32_t* p, Avx512::U32 a) { _mm512_storeu_si512(p, a.v); }

// Through a register: compressing straight to memory is microcoded on some processors.
FASTINIT_INLINE int store_selected(uint32_t* p, Avx512::M32 mask, Avx512::U32 a) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(mask.v, a.v));
  return __builtin_popcount(mask.v);
}
FASTINIT_INLINE int store_selected(uint32_t* p, Avx512::M64 mask, Avx512::U64 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi64_epi32(_mm512_maskz_compress_epi64(mask.v, a.v)));
  return __builtin_popcount(mask.v);
}

FASTINIT_INLINE void store_zeros(float* p, Avx512::M32 mask) {
  _mm512_mask_storeu_ps(p, mask.v, _mm512_setzero_ps());
}
FASTINIT_INLINE void store_zeros(double* p, Avx512::M32 mask) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask.v), _mm512_setzero_pd());
  _mm512_mask_storeu_pd(p + 8, static_cast<__mmask8>(mask.v >> 8), _mm512_setzero_pd());
}
FASTINIT_INLINE void store_zeros(Half* p, Avx512::M32 mask) {
  _mm256_mask_storeu_epi16(p, mask.v, _mm256_setzero_si256());
}
FASTINIT_INLINE void store_zeros(BFloat16* p, Avx512::M32 mask) {
  _mm256_mask_storeu_epi16(p, mask.v, _mm256_setzero_si256());
}

namespace avx512_detail {

template <bool Streaming>
FASTINIT_INLINE void put(void* p, __m512i x) {
  if constexpr (Streaming) {
    _mm512_stream_si512(static_cast<__m512i*>(p), x);
  } else {
    _mm512_storeu_si512(p, x);
  }
}

// float32 to bfloat16 in the high half of each lane; the low half is undefined.
FASTINIT_INLINE __m512i round_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF));
  const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
  return _mm512_mask_add_epi32(r, odd, r, _mm512_set1_epi32(1));
}

}  // namespace avx512_detail

template <bool Streaming>
FASTINIT_INLINE void store_pairs(float* p, Avx512::F32 first, Avx512::F32 second) {
  avx512_detail::put<Streaming>(p, _mm512_castps_si512(_mm512_unpacklo_ps(first.v, second.v)));
  avx512_detail::put<Streaming>(p + 16, _mm512_castps_si512(_mm512_unpackhi_ps(first.v, second.v)));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(double* p, Avx512::F64 first, Avx512::F64 second) {
  avx512_detail::put<Streaming>(p, _mm512_castpd_si512(_mm512_unpacklo_pd(first.v, second.v)));
  avx512_detail::put<Streaming>(p + 8, _mm512_castpd_si512(_mm512_unpackhi_pd(first.v, second.v)));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(Half* p, Avx512::F32 first, Avx512::F32 second) {
  const __m256i low = _mm512_cvtps_ph(_mm512_unpacklo_ps(first.v, second.v), _MM_FROUND_TO_NEAREST_INT);
  const __m256i high = _mm512_cvtps_ph(_mm512_unpackhi_ps(first.v, second.v), _MM_FROUND_TO_NEAREST_INT);
  avx512_detail::put<Streaming>(p, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(BFloat16* p, Avx512::F32 first, Avx512::F32 second) {
  const __m512i low = _mm512_srli_epi32(avx512_detail::round_bf16(first.v), 16);
  const __m512i both = _mm512_mask_blend_epi16(0xAAAAAAAA, low, avx512_detail::round_bf16(second.v));
  avx512_detail::put<Streaming>(p, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), both));
}

}  // namespace fastinit
