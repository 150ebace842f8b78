// Distributions whose elements need no second look: uniform and normal.
#pragma once

#include <type_traits>

#include "cpu/run.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// The elements of a run from its block boundary on, relative to which everything below counts:
// element k of the frame is logical index first_block * elements_per_block + k, and stands at out[k - skipped].

template <class T, class Run, class D>
void fill_elementwise(T* out, const Run& run, const D& distribution, bool streaming) {
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

template <class T, class Run, class R>
void fill_segment(T* out, const Run& run, const Uniform<R>& d, bool streaming) {
  fill_elementwise(out, run, d, streaming);
}
template <class T, class Run, class R>
void fill_segment(T* out, const Run& run, const Normal<R>& d, bool streaming) {
  fill_elementwise(out, run, d, streaming);
}
}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
