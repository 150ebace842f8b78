// The truncated normal: whole groups first, then attempts for the rejected elements alone.
#pragma once

#include <cstring>

#include "cpu/batch.h"
#include "cpu/elementwise.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

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

// The bits of single elements, given by their offsets in the frame.
template <class R>
FASTINIT_INLINE Words<LanesForFew> words_for_few(const Scattered<R>& run, LanesForFew::U64 offsets,
                                                 uint32_t draw, Purpose purpose) {
  using U64 = LanesForFew::U64;
  alignas(64) uint32_t of[2 * U64::lanes], low[U64::lanes];
  store(of, interleave(offsets, offsets));
  for (int i = 0; i < U64::lanes; ++i) low[i] = run.low[of[2 * i] / elements_per_block<R>];
  return words_of<LanesForFew>(U64::load(low), U64(uint64_t{run.high}), draw, purpose, run.keys);
}
template <class R>
FASTINIT_INLINE Words<LanesForFew> words_for_few(const Run<R>& run, LanesForFew::U64 offsets, uint32_t draw,
                                                 Purpose purpose) {
  using U64 = LanesForFew::U64;
  constexpr int shift = elements_per_block<R> == 4 ? 2 : 1;
  const U64 low = U64(run.first_block() & low_half) + shift_right<shift>(offsets & U64(low_half));
  return words_of<LanesForFew>(low, U64(run.first_block() >> 32), draw, purpose, run.keys);
}
template <class Run>
FASTINIT_INLINE Pair<LanesForFew::U32> pairs_for_few(const Run& run, LanesForFew::U32 offsets, uint32_t draw,
                                                     Purpose purpose) {
  const auto of = [&](LanesForFew::U64 o) __attribute__((always_inline)) {
    return pair_of(words_for_few(run, o, draw, purpose), o);
  };
  const auto a = of(even(offsets)), b = of(odd(offsets));
  return {interleave(a.first, b.first), interleave(a.second, b.second)};
}
template <class Run>
FASTINIT_INLINE Pair<LanesForFew::U64> pairs_for_few(const Run& run, LanesForFew::U64 offsets, uint32_t draw,
                                                     Purpose purpose) {
  return bits_of<LanesForFew, double>(words_for_few(run, offsets, draw, purpose));
}

// Elements in a chunk of rejection sampling: what was rejected in one stays in the nearest cache.
constexpr int chunk_size = 4096;

// Rejection sampling of one chunk: all elements once, then those that were rejected, gathered, again and
// again. Redoing whole vectors instead would cost a vector for nearly every element rejected.
template <Method P, class T, class Run, class D>
void fill_by_rejection(T* out, const Run& run, const D& distribution) {
  using R = ArithmeticFor<T>;
  constexpr int group = group_size<R>, per_block = elements_per_block<R>;
  constexpr bool needs_coin = has_coin<P>;
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
      const auto second = test_bit<0>(o);
      const auto bits = attempt_bits<P>(pairs_for_few(run, o, draw, Purpose::values), second);
      const auto coin =
          needs_coin ? attempt_bits<P>(pairs_for_few(run, o, draw, Purpose::accept), second) : bits;
      const auto x = distribution.template attempt<LanesForFew, P>(bits, coin);
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

template <class T, class Run>
void fill_by_rejection(T* out, const Run& run, const TruncatedNormal<ArithmeticFor<T>>& d) {
  switch (d.method) {
    case Method::normal:
      return fill_by_rejection<Method::normal>(out, run, d);
    case Method::half_normal:
      return fill_by_rejection<Method::half_normal>(out, run, d);
    case Method::uniform:
      return fill_by_rejection<Method::uniform>(out, run, d);
    case Method::exponential:
      return fill_by_rejection<Method::exponential>(out, run, d);
    case Method::quantile:
      return;  // rejects nothing
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
void fill_segment(T* out, const Run<R>& run, const TruncatedNormal<R>& d, bool streaming) {
  if (d.certain) return fill_elementwise(out, run, d, streaming);
  in_chunks(out, run, streaming, [&](T* to, const Run<R>& part) { fill_by_rejection(to, part, d); });
}
template <class T, class R>
void fill_segment(T* out, Scattered<R> run, const TruncatedNormal<R>& d, bool streaming) {
  if (d.certain) return fill_elementwise(out, run, d, streaming);
  for (int64_t rest = run.n; rest > 0; rest -= run.n) {
    run.n = smaller(rest, int64_t{chunk_size});
    fill_by_rejection(out, run, d);
    out += run.n;
    run.low += run.n / elements_per_block<R>;
  }
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
