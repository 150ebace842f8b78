// Packing and multiplying tiles: one tile of the result stays in registers while its sums run.
//
// K. Goto, R. van de Geijn: "Anatomy of high-performance matrix multiplication", ACM TOMS 34 (2008).
//
// As in fill_target.cpp, nothing here may be shared with code compiled for another instruction set.
#include "cpu/product_target.h"

#include "core/macros.h"

#if defined(__FMA__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // see lanes_avx512.h
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// The sums of a tile are registers only if its loops are gone.
#define FASTINIT_UNROLL_TILE _Pragma("GCC unroll 8")

namespace fastinit::FASTINIT_TARGET {
namespace {

#if defined(__AVX512F__)
constexpr int register_bytes = 64;
constexpr int rows = 8;  // 24 of 32 registers hold the sums
FASTINIT_INLINE __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
FASTINIT_INLINE __m512d fma(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__FMA__)
constexpr int register_bytes = 32;
constexpr int rows = 4;  // 12 of 16
FASTINIT_INLINE __m256 fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
FASTINIT_INLINE __m256d fma(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__aarch64__)
constexpr int register_bytes = 16;
constexpr int rows = 6;  // 18 of 32; with 8 there would be no room for a's numbers
template <class V>
FASTINIT_INLINE V fma(V a, V b, V c) {
  if constexpr (sizeof(a[0]) == 4) {
    return static_cast<V>(vfmaq_f32(c, a, b));
  } else {
    return static_cast<V>(vfmaq_f64(c, a, b));
  }
}
#else
constexpr int register_bytes = 16;
constexpr int rows = 4;
// Without the instruction an fma would be a call for each number; two roundings are the lesser evil.
template <class V>
FASTINIT_INLINE V fma(V a, V b, V c) {
#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
  for (unsigned l = 0; l < sizeof(V) / sizeof(a[0]); ++l) {
    if constexpr (sizeof(a[0]) == 4) {
      c[l] = __builtin_fmaf(a[l], b[l], c[l]);
    } else {
      c[l] = __builtin_fma(a[l], b[l], c[l]);
    }
  }
  return c;
#else
  return a * b + c;
#endif
}
#endif

constexpr int most_vectors = 3;

template <class T, int vectors>
struct Tile {
  typedef T V __attribute__((vector_size(register_bytes)));
  static constexpr int lanes = register_bytes / static_cast<int>(sizeof(T));
  static constexpr int cols = vectors * lanes;

  V sum[rows][vectors];

  static FASTINIT_INLINE V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof(V));
    return v;
  }
  static FASTINIT_INLINE void store(T* p, V v) { __builtin_memcpy(p, &v, sizeof(V)); }

  // Sums of k terms, taken in order.
  FASTINIT_INLINE void accumulate(int64_t k, const T* a, const T* b) {
    V s[rows][vectors] = {};
    for (; k > 0; --k, a += rows, b += cols) {
      V y[vectors];
      FASTINIT_UNROLL_TILE
      for (int j = 0; j < vectors; ++j) y[j] = load(b + j * lanes);
      FASTINIT_UNROLL_TILE
      for (int i = 0; i < rows; ++i) {
        const V x = a[i] - V{};
        FASTINIT_UNROLL_TILE
        for (int j = 0; j < vectors; ++j) s[i][j] = fma(x, y[j], s[i][j]);
      }
    }
    FASTINIT_UNROLL_TILE
    for (int i = 0; i < rows; ++i) {
      FASTINIT_UNROLL_TILE
      for (int j = 0; j < vectors; ++j) sum[i][j] = s[i][j];
    }
  }

  FASTINIT_INLINE void write(T* c, int64_t stride, T alpha, bool add) const {
    const V x = alpha - V{};
    FASTINIT_UNROLL_TILE
    for (int i = 0; i < rows; ++i) {
      FASTINIT_UNROLL_TILE
      for (int j = 0; j < vectors; ++j) {
        T* const p = c + i * stride + j * lanes;
        store(p, add ? fma(x, sum[i][j], load(p)) : x * sum[i][j]);
      }
    }
  }
};

// Packs `width` vectors of k numbers each, `panel` vectors to a panel; a panel has the first numbers of all its vectors,
// then their second ones, and so on. The last panel is filled up with zeros.
template <class T, int panel>
void pack(T* dst, const T* src, int64_t width, int64_t width_stride, int64_t k, int64_t k_stride) {
  const int64_t whole = width / panel, rest = width % panel;
  if (width_stride == 1) {
    // Row by row through all panels: long stretches of memory, should it be far.
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t w = 0; w < whole; ++w) {
        for (int i = 0; i < panel; ++i) dst[(w * k + p) * panel + i] = src[p * k_stride + w * panel + i];
      }
    }
  } else {
    // A few vectors at a time: more of them, a power of two apart, would push each other out of the cache.
    constexpr int few = panel % 8 == 0 ? 8 : panel % 4 == 0 ? 4 : 2;
    for (int64_t w = 0; w < whole; ++w) {
      for (int i = 0; i < panel; i += few) {
        const T* const from = src + (w * panel + i) * width_stride;
        T* const to = dst + w * k * panel + i;
        for (int64_t p = 0; p < k; ++p) {
          for (int l = 0; l < few; ++l) to[p * panel + l] = from[l * width_stride + p * k_stride];
        }
      }
    }
  }
  if (rest > 0) {
    const T* const from = src + whole * panel * width_stride;
    T* const to = dst + whole * k * panel;
    for (int64_t i = 0; i < k * panel; ++i) to[i] = 0;
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t i = 0; i < rest; ++i) to[p * panel + i] = from[i * width_stride + p * k_stride];
    }
  }
}

template <class T, int cols>
void pack_panels_of_b(const cpu::Product<T>& p, int64_t panel, int64_t panel_end) {
  const int64_t k = p.k_end - p.k_begin, begin = panel * cols;
  const int64_t end = panel_end * cols < p.b.cols ? panel_end * cols : p.b.cols;
  pack<T, cols>(p.packed_b + (panel - p.b_first) * cols * k, &p.b(p.k_begin, begin), end - begin,
                p.b.col_stride, k, p.b.row_stride);
}

template <class T, int vectors>
void multiply_tiles(const cpu::Product<T>& p, int64_t i_begin, int64_t i_end, int64_t j_begin,
                    int64_t j_end) {
  using cpu::Part;
  constexpr int cols = Tile<T, vectors>::cols;
  const int64_t k = p.k_end - p.k_begin;
  const bool add = p.add || p.k_begin > 0;
  for (int64_t j = j_begin; j < j_end; ++j) {
    for (int64_t i = i_begin; i < i_end; ++i) {
      const int64_t top = i * rows, left = j * cols;
      const int64_t bottom = top + rows < p.c.rows ? top + rows : p.c.rows;
      const int64_t right = left + cols < p.c.cols ? left + cols : p.c.cols;
      if (p.c.part == Part::upper && top >= right) continue;
      if (p.c.part == Part::lower && left >= bottom) continue;

      // The terms that may differ from zero in some element of the tile.
      int64_t from = p.k_begin, to = p.k_end;
      if (p.a.part == Part::upper && from < top) from = top;
      if (p.b.part == Part::lower && from < left) from = left;
      if (p.a.part == Part::lower && to > bottom) to = bottom;
      if (p.b.part == Part::upper && to > right) to = right;
      if (from >= to) {
        if (add) continue;
        from = to = p.k_begin;
      }

      T* const c = p.c.data + top * p.c.row_stride + left * p.c.col_stride;
      const bool whole = bottom - top == rows && right - left == cols && p.c.col_stride == 1;
      if (whole && add) {
        for (int r = 0; r < rows; ++r) {
          for (int l = 0; l < cols; l += 64 / static_cast<int>(sizeof(T)))
            __builtin_prefetch(c + r * p.c.row_stride + l);
        }
      }
      Tile<T, vectors> tile;
      tile.accumulate(to - from, p.packed_a + ((i - p.a_first) * k + from - p.k_begin) * rows,
                      p.packed_b + ((j - p.b_first) * k + from - p.k_begin) * cols);
      if (whole) {
        tile.write(c, p.c.row_stride, p.alpha, add);
        continue;
      }
      // At the edge, or in memory of other strides: by way of a copy.
      T buffer[rows * cols];
      for (int64_t r = 0; r < bottom - top; ++r) {
        for (int64_t l = 0; l < right - left; ++l)
          buffer[r * cols + l] = c[r * p.c.row_stride + l * p.c.col_stride];
      }
      tile.write(buffer, cols, p.alpha, add);
      for (int64_t r = 0; r < bottom - top; ++r) {
        for (int64_t l = 0; l < right - left; ++l)
          c[r * p.c.row_stride + l * p.c.col_stride] = buffer[r * cols + l];
      }
    }
  }
}

template <class T>
void pack_a(const cpu::Product<T>& p, int64_t panel, int64_t panel_end) {
  const int64_t k = p.k_end - p.k_begin, begin = panel * rows;
  const int64_t end = panel_end * rows < p.a.rows ? panel_end * rows : p.a.rows;
  pack<T, rows>(p.packed_a + (panel - p.a_first) * rows * k, &p.a(begin, p.k_begin), end - begin,
                p.a.row_stride, k, p.a.col_stride);
}

template <class T>
void pack_b(const cpu::Product<T>& p, int64_t panel, int64_t panel_end) {
  if (p.narrow) {
    pack_panels_of_b<T, Tile<T, 1>::cols>(p, panel, panel_end);
  } else {
    pack_panels_of_b<T, Tile<T, most_vectors>::cols>(p, panel, panel_end);
  }
}

template <class T>
void multiply(const cpu::Product<T>& p, int64_t i, int64_t i_end, int64_t j, int64_t j_end) {
  if (p.narrow) {
    multiply_tiles<T, 1>(p, i, i_end, j, j_end);
  } else {
    multiply_tiles<T, most_vectors>(p, i, i_end, j, j_end);
  }
}

template <class T>
void lower_squares(const cpu::Matrix<T>& a, int64_t begin, int64_t end, double* sums) {
  for (int64_t j = 0; j < a.cols; ++j) sums[j] = 0;
  // Each sum runs down its column either way.
  if (a.col_stride == 1 && a.cols > 8) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = &a(i, 0);
      const int64_t filled = i + 1 < a.cols ? i + 1 : a.cols;
      for (int64_t j = 0; j < filled; ++j)
        sums[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    }
  } else {
    for (int64_t j = 0; j < a.cols; ++j) {
      double sum = 0;
      for (int64_t i = begin > j ? begin : j; i < end; ++i) {
        sum += static_cast<double>(a(i, j)) * static_cast<double>(a(i, j));
      }
      sums[j] = sum;
    }
  }
}

template <class T>
constexpr cpu::ProductKernels<T> kernels{
    rows, Tile<T, most_vectors>::cols, Tile<T, 1>::cols, pack_a<T>, pack_b<T>, multiply<T>, lower_squares<T>};

}  // namespace

const cpu::ProductKernels<float>& product_kernels(float) { return kernels<float>; }
const cpu::ProductKernels<double>& product_kernels(double) { return kernels<double>; }

}  // namespace fastinit::FASTINIT_TARGET
