// Runs of consecutive indices: what the loops of the distributions fill.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/fill.h"
#include "cpu/lanes.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

constexpr uint64_t low_half = 0xFFFFFFFFu;

// std::min and std::max are symbols that all instruction sets share, where they are not inlined.
template <class T>
FASTINIT_INLINE constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
FASTINIT_INLINE constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

template <class R>
constexpr int group_size = Lanes::blocks*(elements_per_block<R>);

bool on_cache_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// Copies n elements, past the caches if `streaming`; `to` is then on a cache line.
template <class T>
void copy(T* to, const T* from, int64_t n, [[maybe_unused]] bool streaming) {
#if defined(__x86_64__)
  constexpr int per_line = 64 / sizeof(T);
  for (; streaming && n >= per_line; n -= per_line, to += per_line, from += per_line) stream_line(to, from);
#endif
  memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

// In memory, from where an operation on vectors takes them as they are. Unless they are hidden from it, the compiler makes
// them anew for every group, which costs more than a tenth of its time.
struct Keys : RoundKeys<KeyWord> {
  explicit Keys(Key key) : RoundKeys(key, [](uint32_t x) { return KeyWord(x); }) {
    asm volatile("" : "+m"(*this));
  }
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

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
