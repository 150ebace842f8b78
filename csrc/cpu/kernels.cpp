// The CPU's loops: from a region to runs of consecutive indices, from a run to groups of Philox blocks.
//
// Compiled once per instruction set, with FASTINIT_TARGET naming it. Everything this file does not inline
// lives in a namespace of that name: two instruction sets must never share a symbol.
#include "cpu/kernels.h"

#include <cstring>
#include <type_traits>

#include "core/fill.h"
#include "core/floating_point.h"

#if defined(__AVX512F__)
#include "cpu/lanes_avx512.h"
#include "cpu/lanes_interleaved.h"
#elif defined(__AVX2__)
#include "cpu/lanes_avx2.h"
#include "cpu/lanes_interleaved.h"
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastinit {
namespace FASTINIT_TARGET {
namespace {

// As many side by side as the registers hold; for single elements, which take more of them, and of which there may be
// few, half as many.
#if defined(__AVX512F__)
using Lanes = Interleaved<Avx512, 4>;
using LanesForFew = Interleaved<Avx512, 2>;
#elif defined(__AVX2__)
using Lanes = Interleaved<Avx2, 2>;
using LanesForFew = Interleaved<Avx2, 2>;
#else
using Lanes = Portable<4>;
using LanesForFew = Portable<4>;
#endif

constexpr uint64_t low_half = 0xFFFFFFFFu;

template <class R>
constexpr int group_size = Lanes::blocks*(elements_per_block<R>);

template <class T>
using ArithmeticFor = typename ArithmeticOf<T>::type;

bool on_cache_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

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

// Copies n elements, past the caches if `streaming`; `to` is then on a cache line.
template <class T>
void copy(T* to, const T* from, int64_t n, [[maybe_unused]] bool streaming) {
#if defined(__x86_64__)
  constexpr int per_line = 64 / sizeof(T);
  for (; streaming && n >= per_line; n -= per_line, to += per_line, from += per_line) stream_line(to, from);
#endif
  memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

// The keys of all rounds, in memory, from where an operation on vectors takes them as they are. Unless they are hidden
// from it, the compiler makes them anew for every group, which costs more than a tenth of its time.
struct Keys {
  static constexpr int rounds = 10;
  uint64_t first_[rounds], second_[rounds];

  explicit Keys(Key key) {
    for (int i = 0; i < rounds; ++i) {
      first_[i] = key.first(i);
      second_[i] = key.second(i);
    }
    asm volatile("" : "+m"(*this));
  }
  FASTINIT_INLINE uint64_t first(int round) const { return first_[round]; }
  FASTINIT_INLINE uint64_t second(int round) const { return second_[round]; }
};

// A run: `n` elements with consecutive logical indices from `first`, consecutive in memory, all in blocks
// that share the high half of their number (2^32 blocks at most).
template <class R>
struct Run {
  uint64_t first;
  int64_t n;
  const Keys& keys;

  uint64_t first_block() const { return first / elements_per_block<R>; }
  int skipped() const { return static_cast<int>(first % elements_per_block<R>); }
};

// The words of the group that starts `block` blocks after the run's first one.
template <class R>
FASTINIT_INLINE Pair<Bits<Lanes, R>> group_bits(const Run<R>& run, int64_t block, Purpose purpose) {
  using U64 = Lanes::U64;
  const uint64_t b = run.first_block();
  const U64 low = U64((b & low_half) + static_cast<uint64_t>(block)) + Lanes::block_offsets();
  return bits_of<Lanes, R>(words_of<Lanes>(low, U64(b >> 32), 0, purpose, run.keys));
}

// The elements of a run from its block boundary on, relative to which everything below counts:
// element k of the frame is logical index first_block * elements_per_block + k, and stands at out[k - skipped].

// Distributions whose elements need no second look: uniform and normal.
template <class T, class D>
void fill_elementwise(T* out, const Run<ArithmeticFor<T>>& run, const D& distribution, bool streaming) {
  using R = ArithmeticFor<T>;
  constexpr int group = group_size<R>, per_block = elements_per_block<R>;
  const int64_t begin = run.skipped(), end = begin + run.n;
  T* const frame = out - begin;

  const auto draw = [&](int64_t at) __attribute__((always_inline)) {
    return distribution.template values<Lanes>(group_bits(run, at / per_block, Purpose::values));
  };
  // Elements from .. to - 1 of the group that starts at `at`.
  const auto partial = [&](int64_t at, int64_t from, int64_t to) {
    alignas(64) T buffer[group];
    const auto x = draw(at);
    store_pairs<false>(buffer, x.first, x.second);
    memcpy(frame + from, buffer + (from - at), static_cast<size_t>(to - from) * sizeof(T));
  };
  const auto whole = [&](int64_t at, auto past_caches) {
    for (; at + group <= end; at += group) {
      const auto x = draw(at);
      store_pairs<decltype(past_caches)::value>(frame + at, x.first, x.second);
    }
    return at;
  };

  if (end <= group) return partial(0, begin, end);
  int64_t at = 0;
  if (begin != 0 || (streaming && !on_cache_line(out))) {
    // Up to a block boundary; for streaming, to one that is on a cache line too, where the memory has one.
    at = per_block;
    while (streaming && at < group && !on_cache_line(frame + at)) at += per_block;
    if (at > end) at = end;
    partial(0, begin, at);
  }
  at = streaming && on_cache_line(frame + at) ? whole(at, std::true_type()) : whole(at, std::false_type());
  if (at < end) partial(at, at, end);
}

// Offsets in the frame of a group's elements, lane by lane.
FASTINIT_INLINE Pair<Lanes::U32> element_offsets(float) {
  const auto base = shift_left<2>(Lanes::block_offsets());
  const auto plus = [&](uint64_t n) { return base + Lanes::U64(n); };
  return {interleave(plus(0), plus(2)), interleave(plus(1), plus(3))};
}
FASTINIT_INLINE Pair<Lanes::U64> element_offsets(double) {
  const auto base = shift_left<1>(Lanes::block_offsets());
  return {base, base + Lanes::U64(uint64_t{1})};
}

// The bits of single elements, given by their offsets in the frame. The normal proposal makes a pair of elements from a
// pair of words; for the others, which make each element from its own word, both of the pair are this one, and the
// compiler makes it once.
template <class R>
FASTINIT_INLINE LanesForFew::U64 block_of(const Run<R>& run, LanesForFew::U64 offsets) {
  constexpr int shift = elements_per_block<R> == 4 ? 2 : 1;
  return LanesForFew::U64(run.first_block() & low_half) +
         shift_right<shift>(offsets & LanesForFew::U64(low_half));
}
template <Proposal P, class B>
FASTINIT_INLINE Pair<B> own_if_enough(Pair<B> pair, B offsets) {
  if constexpr (P == Proposal::normal) return pair;
  const B own = select(test_bit<0>(offsets), pair.second, pair.first);
  return {own, own};
}
template <Proposal P>
FASTINIT_INLINE Pair<LanesForFew::U32> element_bits(const Run<float>& run, LanesForFew::U32 offsets,
                                                    uint32_t draw, Purpose purpose) {
  const LanesForFew::U64 high(run.first_block() >> 32);
  const auto half = [&](LanesForFew::U64 o) __attribute__((always_inline)) {
    const auto words = words_of<LanesForFew>(block_of(run, o), high, draw, purpose, run.keys);
    const auto upper = test_bit<1>(o);
    return Pair<LanesForFew::U64>{select(upper, words.w[2], words.w[0]),
                                  select(upper, words.w[3], words.w[1])};
  };
  const auto a = half(even(offsets)), b = half(odd(offsets));
  return own_if_enough<P>(
      Pair<LanesForFew::U32>{interleave(a.first, b.first), interleave(a.second, b.second)}, offsets);
}
template <Proposal P>
FASTINIT_INLINE Pair<LanesForFew::U64> element_bits(const Run<double>& run, LanesForFew::U64 offsets,
                                                    uint32_t draw, Purpose purpose) {
  const LanesForFew::U64 high(run.first_block() >> 32);
  return own_if_enough<P>(bits_of<LanesForFew, double>(
                              words_of<LanesForFew>(block_of(run, offsets), high, draw, purpose, run.keys)),
                          offsets);
}

// Elements in a chunk of rejection sampling: what was rejected in one stays in the nearest cache.
constexpr int chunk_size = 4096;

// Rejection sampling of one chunk: all elements once, then those that were rejected, gathered, again and
// again. Redoing whole vectors instead would cost a vector for nearly every element rejected.
template <Proposal P, class T, class D>
void fill_by_rejection(T* out, const Run<ArithmeticFor<T>>& run, const D& distribution) {
  using R = ArithmeticFor<T>;
  constexpr int group = group_size<R>, per_block = elements_per_block<R>;
  constexpr bool needs_coin = P != Proposal::normal;
  const int begin = run.skipped(), end = begin + static_cast<int>(run.n);
  T* const frame = out - begin;
  uint32_t pending[chunk_size + per_block + 4 * group];
  int count = 0;

  const auto offsets = element_offsets(R());
  for (int at = 0; at < end; at += group) {
    const auto bits = group_bits(run, at / per_block, Purpose::values);
    const auto coin = needs_coin ? group_bits(run, at / per_block, Purpose::accept) : bits;
    const auto x = distribution.template attempt<Lanes, P>(bits, coin);
    const bool whole = at >= begin && at + group <= end;
    const int before = count;
    const Bits<Lanes, R> origin(static_cast<uint32_t>(at));
    count += store_selected(pending + count, !x.accepted.first, offsets.first + origin);
    count += store_selected(pending + count, !x.accepted.second, offsets.second + origin);
    if (whole) {
      store_pairs<false>(frame + at, x.values.first, x.values.second);
    } else {
      alignas(64) T buffer[group];
      store_pairs<false>(buffer, x.values.first, x.values.second);
      const int from = at < begin ? begin : at, to = at + group < end ? at + group : end;
      memcpy(frame + from, buffer + (from - at), static_cast<size_t>(to - from) * sizeof(T));
      int kept = before;
      for (int i = before; i < count; ++i) {
        const int offset = static_cast<int>(pending[i]);
        if (offset >= from && offset < to) pending[kept++] = pending[i];
      }
      count = kept;
    }
  }

  using B = Bits<LanesForFew, R>;
  constexpr int width = B::lanes;
  for (uint32_t draw = 1; count > 0 && draw < max_attempts; ++draw) {
    // Whole vectors only: the last element is repeated, and drawing it twice gives the same value twice.
    for (int i = 0; i < width; ++i) pending[count + i] = pending[count - 1];
    int left = 0;
    B next = B::load(pending);
    for (int i = 0; i < count; i += width) {
      const B o = next;
      next =
          B::load(pending + i + width);  // before the stores below, for whose addresses it would have to wait
      const auto bits = element_bits<P>(run, o, draw, Purpose::values);
      const auto coin = needs_coin ? element_bits<P>(run, o, draw, Purpose::accept) : bits;
      const auto x = distribution.template attempt<LanesForFew, P>(bits, coin);
      const auto second = test_bit<0>(o);
      alignas(64) R values[width];
      uint32_t to[width];
      store(values, select(second, x.values.second, x.values.first));
      memcpy(to, pending + i, sizeof(to));
      const auto rejected = (second & (!x.accepted.second)) | ((!second) & (!x.accepted.first));
      for (int k = 0; k < width; ++k) frame[to[k]] = round_to<T>(values[k]);
      left += store_selected(pending + left, rejected, o);
    }
    if (left > count) left = count;
    count = left;
  }
}

template <class T>
void fill_by_rejection(T* out, const Run<ArithmeticFor<T>>& run, const TruncatedNormal<ArithmeticFor<T>>& d) {
  switch (d.proposal) {
    case Proposal::normal:
      return fill_by_rejection<Proposal::normal>(out, run, d);
    case Proposal::uniform:
      return fill_by_rejection<Proposal::uniform>(out, run, d);
    case Proposal::exponential:
      return fill_by_rejection<Proposal::exponential>(out, run, d);
  }
}

// Calls fill(to, part) for parts of at most chunk_size elements that end on a block boundary; streaming
// goes through a chunk in the nearest cache.
template <class T, class F>
void in_chunks(T* out, Run<ArithmeticFor<T>> run, bool streaming, const F& fill) {
  alignas(64) T stage[chunk_size];
  for (int64_t rest = run.n; rest > 0;) {
    const int64_t most = chunk_size - run.skipped();
    run.n = rest < most ? rest : most;
    const bool past_caches = streaming && on_cache_line(out);
    T* const to = past_caches ? stage : out;
    fill(to, run);
    if (past_caches) copy(out, stage, run.n, true);
    out += run.n;
    run.first += static_cast<uint64_t>(run.n);
    rest -= run.n;
  }
}

template <class T, class R>
void fill_segment(T* out, const Run<R>& run, const Uniform<R>& d, bool streaming) {
  fill_elementwise(out, run, d, streaming);
}
template <class T, class R>
void fill_segment(T* out, const Run<R>& run, const Normal<R>& d, bool streaming) {
  fill_elementwise(out, run, d, streaming);
}
template <class T, class R>
void fill_segment(T* out, const Run<R>& run, const TruncatedNormal<R>& d, bool streaming) {
  in_chunks(out, run, streaming, [&](T* to, const Run<R>& part) { fill_by_rejection(to, part, d); });
}

// The zeros of sparse_ in a strip of columns, row by row. What the columns' Philox words say is at hand for the whole
// strip, so that a run of many rows computes it once.
template <class R>
class ZeroStrip {
 public:
  static constexpr int64_t width = 256;
  static constexpr int lanes = 2 * Lanes::blocks;

  // `columns` of them, at most `width`.
  ZeroStrip(const Sparse<R>& d, const Keys& keys, uint64_t first_column, int64_t columns)
      : d_(d), keys_(keys), first_column_(first_column), columns_(columns) {
    if (d.selects()) {
      for (uint32_t& left : state_) left = d.zeros;
    } else {
      for (int draw = 0; 4 * draw < 2 * d.rounds; ++draw) load_words(draw, 4 * draw);
    }
  }

  // Finds the zeros of this row. Rows come in rising order.
  void go_to(uint64_t row) {
    if (d_.selects()) {
      for (; next_row_ <= row; ++next_row_) select_row();
    } else {
      switch (d_.grid()) {
        case Grid::ragged:
          return permute<Grid::ragged>(row);
        case Grid::even:
          return permute<Grid::even>(row);
        case Grid::power_of_two:
          return permute<Grid::power_of_two>(row);
      }
    }
  }

  // Which of the `lanes` columns from `column` (in the strip) on are zero; none beyond the strip.
  FASTINIT_INLINE auto zero(int64_t column) const { return test_bit<0>(U32::load(zero_ + column)); }

 private:
  using U32 = Lanes::U32;
  using Grid = typename Sparse<R>::Grid;

  // Words to .. to + 3 of the columns: those of their block `draw`.
  void load_words(int draw, int to) {
    const uint32_t parts = static_cast<uint32_t>(d_.parts);
    for (int64_t c = 0; c < columns_; c += lanes) {
      const auto every_other = [&](int parity) {
        uint32_t step[Lanes::blocks];
        for (int i = 0; i < Lanes::blocks; ++i) step[i] = static_cast<uint32_t>(2 * i + parity) / parts;
        const auto column =
            Lanes::U64((first_column_ + static_cast<uint64_t>(c)) / parts) + Lanes::U64::load(step);
        return words_of<Lanes>(column, shift_right<32>(column), static_cast<uint32_t>(draw), Purpose::columns,
                               keys_);
      };
      const auto even = every_other(0), odd = every_other(1);
      for (int i = 0; i < 4; ++i) store(words_[to + i] + c, interleave(even.w[i], odd.w[i]));
    }
  }

  FASTINIT_INLINE void store_zero(int64_t c, Lanes::M32 mask) {
    store(zero_ + c, select(mask, U32(1u), U32(0u)));
  }

  void select_row() {
    const int word = static_cast<int>(next_row_ % 4);
    if (word == 0) load_words(static_cast<int>(next_row_ / 4), 0);
    for (int64_t c = 0; c < columns_; c += lanes) {
      const U32 left = U32::load(state_ + c);
      const auto zero = d_.selected(next_row_, U32::load(words_[word] + c), left);
      store(state_ + c, left - select(zero, U32(1u), U32(0u)));
      store_zero(c, zero);
    }
  }

  template <Grid G>
  void permute(uint64_t row) {
    d_.rounds == 6 ? permute<G, 6>(row) : permute<G, 8>(row);
  }
  template <Grid G, int Rounds>
  void permute(uint64_t row) {
    const auto cell = next_row_ == row && row != 0 ? d_.next(cell_) : d_.cell(row);
    if (cell.high != cell_.high || next_row_ == 0) {
      for (int64_t c = 0; c < columns_; c += lanes) {
        store(state_ + c,
              d_.template shift<G>(U32(cell.high), U32::load(words_[0] + c), U32::load(words_[1] + c)));
      }
    }
    cell_ = cell;
    next_row_ = row + 1;
    for (int64_t c = 0; c < columns_; c += lanes) {
      store_zero(c, d_.template permuted_to_zero<G, Rounds>(cell, U32::load(state_ + c),
                                                            [&](int i) { return U32::load(words_[i] + c); }));
    }
  }

  const Sparse<R>& d_;
  const Keys& keys_;
  uint64_t first_column_;
  int64_t columns_;
  uint64_t next_row_ = 0;
  typename Sparse<R>::Cell cell_{0, 0};  // of the row before (permutation)
  alignas(64) uint32_t words_[2 * Sparse<R>::most_rounds][width];
  alignas(64) uint32_t state_[width];  // zeros left (selection), or the first round's shift (permutation)
  alignas(64) uint32_t zero_[width + lanes] = {};
};

template <class T, class R>
void fill_segment(T* out, const Run<R>& run, const Sparse<R>& d, bool streaming) {
  constexpr int64_t width = ZeroStrip<R>::width, lanes = ZeroStrip<R>::lanes;
  const uint64_t end = run.first + static_cast<uint64_t>(run.n), columns = d.columns;
  alignas(64) T stage[width + lanes];
  const uint64_t first_row = run.first / columns, last_row = (end - 1) / columns;
  const bool one_row = first_row == last_row;
  const uint64_t leftmost = one_row ? run.first % columns : 0;
  const uint64_t rightmost = one_row ? (end - 1) % columns + 1 : columns;
  for (uint64_t left = leftmost; left < rightmost; left += width) {
    const uint64_t right = left + width < rightmost ? left + width : rightmost;
    uint64_t row = first_row;
    if (row * columns + right <= run.first) ++row;
    if (row * columns + left >= end) continue;
    ZeroStrip<R> strip(d, run.keys, left, static_cast<int64_t>(right - left));
    for (; row * columns + left < end; ++row) {
      const uint64_t from = row * columns + left < run.first ? run.first : row * columns + left;
      const uint64_t to = row * columns + right < end ? row * columns + right : end;
      const int64_t n = static_cast<int64_t>(to - from),
                    skip = static_cast<int64_t>(from - row * columns - left);
      strip.go_to(row);
      fill_elementwise(stage, Run<R>{from, n, run.keys}, d.normal, false);
      for (int64_t c = 0; c < n; c += lanes) store_zeros(stage + c, strip.zero(skip + c));
      T* const p = out + (from - run.first);
      copy(p, stage, n, streaming && on_cache_line(p));
    }
  }
}

// Any number of consecutive indices, consecutive in memory: cut where the high half of the block changes.
template <class T, class D>
void fill_run(T* out, uint64_t first, int64_t n, const Keys& keys, const D& distribution, bool streaming) {
  using R = ArithmeticFor<T>;
  constexpr uint64_t per_segment = (low_half + 1) * elements_per_block<R>;
  while (n > 0) {
    const uint64_t room = per_segment - first % per_segment;
    const int64_t part = static_cast<uint64_t>(n) < room ? n : static_cast<int64_t>(room);
    fill_segment(out, Run<R>{first, part, keys}, distribution, streaming);
    out += part;
    first += static_cast<uint64_t>(part);
    n -= part;
  }
}

// Rows of `columns` elements each, whose indices are `index_down` apart, and `pitch` apart in memory.
template <class T, class D>
void fill_rows(T* out, int64_t pitch, uint64_t first, int64_t index_down, int64_t columns, int64_t rows,
               const Keys& keys, const D& distribution) {
  for (int64_t i = 0; i < rows; ++i) {
    fill_run(out + i * pitch, first + static_cast<uint64_t>(i * index_down), columns, keys, distribution,
             false);
  }
}
template <class T, class D>
void fill_block(T* out, int64_t pitch, uint64_t first, int64_t index_down, int64_t columns, int64_t rows,
                const Keys& keys, const D& distribution) {
  fill_rows(out, pitch, first, index_down, columns, rows, keys, distribution);
}
// With the columns' words computed once for all rows, if they are rows of the matrix. Writes up to ZeroStrip::lanes
// elements beyond the end of a row.
template <class T, class R>
void fill_block(T* out, int64_t pitch, uint64_t first, int64_t index_down, int64_t columns, int64_t rows,
                const Keys& keys, const Sparse<R>& d) {
  constexpr int64_t width = ZeroStrip<R>::width, lanes = ZeroStrip<R>::lanes;
  const uint64_t row = first / d.columns, left = first % d.columns;
  const bool of_matrix = static_cast<uint64_t>(index_down) == d.columns &&
                         left + static_cast<uint64_t>(columns) <= d.columns && columns <= width;
  if (!of_matrix) return fill_rows(out, pitch, first, index_down, columns, rows, keys, d);
  ZeroStrip<R> strip(d, keys, left, columns);
  for (int64_t i = 0; i < rows; ++i, out += pitch, first += static_cast<uint64_t>(index_down)) {
    strip.go_to(row + static_cast<uint64_t>(i));
    fill_run(out, first, columns, keys, d.normal, false);
    for (int64_t c = 0; c < columns; c += lanes) store_zeros(out + c, strip.zero(c));
  }
}

// Values of consecutive indices that are not consecutive in memory: made a window at a time, in the
// nearest cache, and taken from there.
template <class T, class D>
class Window {
 public:
  static constexpr int64_t size = 256;

  Window(const Keys& keys, const D& distribution, uint64_t last)
      : keys_(keys), distribution_(distribution), last_(last) {}

  // Copies the values of n indices from `first` on to p, p + stride, ...
  void scatter(T* p, int64_t stride, uint64_t first, int64_t n) {
    while (n > 0) {
      if (first - base_ >= static_cast<uint64_t>(count_)) load(first);
      const int64_t skip = static_cast<int64_t>(first - base_), part = n < count_ - skip ? n : count_ - skip;
      for (int64_t i = 0; i < part; ++i) p[i * stride] = values_[skip + i];
      p += part * stride;
      first += static_cast<uint64_t>(part);
      n -= part;
    }
  }

 private:
  void load(uint64_t index) {
    base_ = index / step * step;
    const uint64_t most = last_ - base_ + 1;
    count_ = most < static_cast<uint64_t>(size) ? static_cast<int64_t>(most) : size;
    fill_run(values_, base_, count_, keys_, distribution_, false);
  }

  static constexpr uint64_t step = 64;  // windows start on whole groups
  alignas(64) T values_[size];
  const Keys& keys_;
  const D& distribution_;
  uint64_t last_;  // no larger index is asked for
  uint64_t base_ = 0;
  int64_t count_ = 0;
};

// A position in a region: coordinates, memory and index of the row (all but the last dimension) it is in.
class Rows {
 public:
  Rows(const Region& region, int64_t row) : region_(region) {
    for (int d = region.dims - 2; d >= 0; --d) {
      coordinate_[d] = row % region.sizes[d];
      row /= region.sizes[d];
      memory += coordinate_[d] * region.strides[d];
      index += static_cast<uint64_t>(coordinate_[d] * region.index_strides[d]);
    }
  }
  // How many rows, this one included, differ in the last outer coordinate alone.
  int64_t neighbours() const {
    const int d = region_.dims - 2;
    return d < 0 ? 1 : region_.sizes[d] - coordinate_[d];
  }
  void advance(int64_t rows) {
    for (int d = region_.dims - 2; d >= 0; --d) {
      coordinate_[d] += rows;
      memory += rows * region_.strides[d];
      index += static_cast<uint64_t>(rows * region_.index_strides[d]);
      if (coordinate_[d] < region_.sizes[d]) return;
      // `rows` never goes past the end of its own dimension, so this is a carry of one.
      coordinate_[d] -= region_.sizes[d];
      memory -= region_.sizes[d] * region_.strides[d];
      index -= static_cast<uint64_t>(region_.sizes[d] * region_.index_strides[d]);
      rows = 1;
    }
  }

  int64_t memory = 0;
  uint64_t index = 0;

 private:
  const Region& region_;
  int64_t coordinate_[Region::max_dims];
};

// A tile of values, made in the nearest caches row by row and taken from there column by column: for regions whose
// neighbouring rows are closer in memory than the elements of a row (a transposed matrix). Memory is then written to
// in its own order, some cache lines at a time.
template <class T>
struct Tile {
  static constexpr int64_t per_block = elements_per_block<ArithmeticFor<T>>,
                           group = group_size<ArithmeticFor<T>>;
  // Whole groups. A row that begins within a block brings the rest of that block along, within this width.
  static constexpr int64_t width = group < 128 ? 128 : group;
  // Not a power of two, whose multiples would meet in few sets of the cache.
  static constexpr int64_t pitch = width + 64 / static_cast<int64_t>(sizeof(T));
  static constexpr int64_t rows = 256 / static_cast<int64_t>(sizeof(T));

  alignas(64) T values[rows * pitch + 2 * Lanes::blocks];
};

template <class T, class D>
void fill_region(const cpu::Job& f, const D& distribution, int64_t begin, int64_t end) {
  const Region& region = f.region;
  const bool streaming = f.streaming;
  T* const data = static_cast<T*>(f.data);
  const int inner = region.dims - 1;
  const int64_t width = region.sizes[inner], stride = region.strides[inner];
  const int64_t index_stride = region.index_strides[inner];
  const bool consecutive = index_stride == 1;

  // Rows of at least a window each, whose elements touch in memory: no detour.
  const bool direct = consecutive && stride == 1 && (inner == 0 || width >= Window<T, D>::size);
  const bool tiles = consecutive && inner > 0 && width >= 16 && region.strides[inner - 1] < stride;

  uint64_t last = region.first_index;
  for (int d = 0; d < region.dims; ++d)
    last += static_cast<uint64_t>((region.sizes[d] - 1) * region.index_strides[d]);
  const Keys keys(f.key);
  Window<T, D> window(keys, distribution, last);

  // Columns from .. to - 1 of a row.
  const auto fill_row = [&](const Rows& row, int64_t from, int64_t to) {
    T* const p = data + row.memory + from * stride;
    const uint64_t index = region.first_index + row.index + static_cast<uint64_t>(from * index_stride);
    if (direct) {
      fill_run(p, index, to - from, keys, distribution, streaming);
    } else if (consecutive) {
      window.scatter(p, stride, index, to - from);
    } else {
      for (int64_t i = 0; i < to - from; ++i) {
        window.scatter(p + i * stride, 1, index + static_cast<uint64_t>(i * index_stride), 1);
      }
    }
  };

  // Whole rows, which differ in the last outer coordinate alone.
  const auto fill_tiles = [&](const Rows& row, int64_t rows) {
    Tile<T> tile;
    const int64_t down = region.strides[inner - 1], index_down = region.index_strides[inner - 1];
    const uint64_t first = region.first_index + row.index;
    // Short rows without gaps between their indices are one run.
    const bool one_run = index_down == width && width <= tile.width / 2;
    const bool on_blocks = first % tile.per_block == 0 && index_down % tile.per_block == 0;
    const int64_t pitch = one_run ? width : tile.pitch;
    const int64_t most_rows = one_run ? tile.rows * tile.pitch / width : tile.rows;
    const int64_t most_columns = one_run || on_blocks ? tile.width : tile.width - tile.per_block + 1;
    for (int64_t c = 0; c < width; c += most_columns) {
      const int64_t columns = width - c < most_columns ? width - c : most_columns;
      for (int64_t r = 0; r < rows; r += most_rows) {
        const int64_t here = rows - r < most_rows ? rows - r : most_rows;
        const uint64_t index = first + static_cast<uint64_t>(r * index_down + c);
        if (one_run) {
          fill_run(tile.values, index, here * width, keys, distribution, false);
        } else {
          fill_block(tile.values, pitch, index, index_down, columns, here, keys, distribution);
        }
        T* p = data + row.memory + r * down + c * stride;
        for (int64_t k = 0; k < columns; ++k, p += stride) {
          for (int64_t i = 0; i < here; ++i) p[i * down] = tile.values[i * pitch + k];
        }
      }
    }
  };

  Rows row(region, begin / width);
  for (int64_t at = begin; at < end;) {
    const int64_t from = at % width, to = end - at < width - from ? from + (end - at) : width;
    int64_t rows = 1;
    if (tiles && from == 0) {
      const int64_t whole = (end - at) / width, neighbours = row.neighbours();
      rows = whole < neighbours ? whole : neighbours;
    }
    if (rows > 1) {
      fill_tiles(row, rows);
      row.advance(rows);
      at += rows * width;
    } else {
      fill_row(row, from, to);
      if (to == width) row.advance(1);
      at += to - from;
    }
  }
}

template <class T, class D>
void fill_part(const cpu::Job& job, int64_t begin, int64_t end) {
  const DefaultFloatingPoint guard;
  fill_region<T>(job, *static_cast<const D*>(job.distribution), begin, end);
#if defined(__x86_64__)
  if (job.streaming) _mm_sfence();
#endif
}

template <class D>
cpu::FillPart fill_part(DType dtype) {
  return with_type<typename D::Arithmetic>(dtype,
                                           [](auto t) -> cpu::FillPart { return fill_part<decltype(t), D>; });
}

template <class... D>
cpu::FillPart fill_part(const std::variant<D...>*, size_t alternative, DType dtype) {
  static constexpr cpu::FillPart (*choices[])(DType) = {fill_part<D>...};
  return choices[alternative](dtype);
}

}  // namespace

cpu::FillPart fill_part(size_t alternative, DType dtype) {
  return fill_part(static_cast<const Distribution*>(nullptr), alternative, dtype);
}

}  // namespace FASTINIT_TARGET
}  // namespace fastinit
