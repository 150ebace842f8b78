// The lanes of the instruction set that this file is compiled for.
#pragma once

#include <cstdint>

#include "core/lanes.h"

#if defined(__AVX512F__)
#include "cpu/lanes_avx512.h"
#include "cpu/lanes_interleaved.h"
#elif defined(__AVX2__)
#include "cpu/lanes_avx2.h"
#include "cpu/lanes_interleaved.h"
#elif defined(__aarch64__)
#include "cpu/lanes_neon.h"
#elif defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastinit::FASTINIT_TARGET {
namespace {

// A round's key in memory, as operations on vectors take it.
#if defined(__aarch64__)
using KeyWord = Neon::Words;
#else
using KeyWord = uint64_t;
#endif

// As many side by side as the registers hold; for single elements, which take more of them, and of which there may be
// few, half as many.
#if defined(__AVX512F__)
using Lanes = Interleaved<Avx512, 4>;
using LanesForFew = Interleaved<Avx512, 2>;
using LanesOf16 = Interleaved<Avx512, 1>;
#elif defined(__AVX2__)
using Lanes = Interleaved<Avx2, 4>;
using LanesForFew = Interleaved<Avx2, 2>;
using LanesOf16 = Interleaved<Avx2, 2>;
#elif defined(__aarch64__)
using Lanes = Interleaved<Neon, 2>;
using LanesForFew = Interleaved<Neon, 2>;
using LanesOf16 = Interleaved<Neon, 2>;
#else
using Lanes = Portable<4>;
using LanesForFew = Portable<4>;
using LanesOf16 = Portable<8>;
#endif

#if defined(__x86_64__)
// One cache line, past the caches.
FASTINIT_INLINE void stream_line(void* to, const void* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    _mm256_stream_si256(static_cast<__m256i*>(to) + i,
                        _mm256_loadu_si256(static_cast<const __m256i*>(from) + i));
  }
#else
  for (int i = 0; i < 4; ++i) {
    _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
  }
#endif
}
#endif

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
