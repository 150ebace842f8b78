// Many short rows at once: the blocks of the stream that they are in, wherever these are, are drawn side by side.
#pragma once

#include <type_traits>

#include "cpu/run.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// Whole blocks with any numbers that share the high half, in place of the consecutive ones of a Run.
template <class R>
struct Scattered {
  uint32_t high;
  const uint32_t* low;  // readable up to a whole group
  int64_t n;            // elements
  const Keys& keys;

  int skipped() const { return 0; }
};

template <class R>
FASTINIT_INLINE Pair<Bits<Lanes, R>> group_bits(const Scattered<R>& run, int64_t block, Purpose purpose) {
  return bits_of<Lanes, R>(words_of<Lanes>(Lanes::blocks_at(run.low + block), Lanes::U64(uint64_t{run.high}),
                                           0, purpose, run.keys));
}

// What values of T are drawn as. 8-bit ones are rounded in the nearest cache: one set of loops serves all their formats.
template <class T>
using Drawn = std::conditional_t<std::is_same_v<T, Float8>, float, T>;

template <class T>
FASTINIT_INLINE void round_all(T* to, const Drawn<T>* from, int64_t n, const Rounding<T>& rounding) {
  const Rounding<T> round = rounding;  // which the compiler need not read again
  for (int64_t i = 0; i < n; ++i) to[i] = round(from[i]);
}

// What is still to be done to the values of a row once they are drawn. For most distributions, nothing.
template <class D>
struct Finish {
  static constexpr bool any = false;
  template <class Task>
  Finish(const Task&, int64_t, int64_t) {}
};

// The values of rows, in the nearest cache.
template <class T>
class Batch {
  using R = ArithmeticFor<T>;
  static constexpr int per_block = elements_per_block<R>;

 public:
  // 16 KiB; a sixteenth more for the blocks that rows of 64 begin and end within.
  static constexpr int64_t elements = (int64_t{16} << 10) / static_cast<int64_t>(sizeof(T));
  static constexpr int64_t blocks = elements / per_block * 17 / 16;

  // For how many consecutive indices from `first` on there is room.
  int64_t room(uint64_t first) const {
    const uint64_t block = first / per_block;
    if (count_ > 0 && block >> 32 != high_) return 0;
    const int64_t more =
        blocks - count_ + (count_ > 0 && low_[count_ - 1] == static_cast<uint32_t>(block) ? 1 : 0);
    const int64_t of_high = static_cast<int64_t>(low_half + 1 - (block & low_half));
    return smaller(more, of_high) * per_block - static_cast<int64_t>(first % per_block);
  }
  // Adds n of them, for which there is room, and says where their values will be.
  int64_t add(uint64_t first, int64_t n) {
    int64_t at = 0;
    add(first, 0, n, 1, [&](int64_t there) { at = there; });
    return at;
  }
  // Adds rows of n of them, `down` apart, as many as there surely is room for. Calls put(where its values will be) for each.
  template <class F>
  int64_t add_rows(uint64_t first, int64_t down, int64_t n, int64_t rows, const F& put) {
    const uint64_t high = first / per_block >> 32;
    if (count_ > 0 && high != high_) return 0;
    rows = smaller(rows, (blocks - count_) / ((n + per_block - 2) / per_block + 1));
    while (rows > 0 && (first + static_cast<uint64_t>((rows - 1) * down + n - 1)) / per_block >> 32 != high)
      rows /= 2;
    if (rows > 0) add(first, down, n, rows, put);
    return rows;
  }

  bool empty() const { return count_ == 0; }
  void clear() { count_ = 0; }

  template <class D>
  void draw(const Keys& keys, const D& distribution) {
    draw(values_, keys, distribution, false);
  }
  // Somewhere else: all values of the blocks, side by side.
  template <class D>
  void draw(T* to, const Keys& keys, const D& distribution, bool streaming) {
    for (int i = 0; i < Lanes::blocks; ++i) low_[count_ + i] = 0;
    fill_segment(to, Scattered<R>{high_, low_, size(), keys}, distribution, streaming);
  }
  int64_t size() const { return count_ * per_block; }
  T* values() { return values_; }
  // Of the value that is there.
  uint64_t index(int64_t at) const {
    const uint64_t block = static_cast<uint64_t>(high_) << 32 | low_[at / per_block];
    return block * per_block + static_cast<uint64_t>(at % per_block);
  }

 private:
  static constexpr int64_t at_once = 16;  // a vector of them, some of them beyond the row

  template <class F>
  FASTINIT_INLINE void add(uint64_t first, int64_t down, int64_t n, int64_t rows, const F& put) {
    high_ = static_cast<uint32_t>(first / per_block >> 32);
    int64_t count = count_;
    uint64_t last = count > 0 ? low_[count - 1] : ~uint64_t{0};
    for (; rows > 0; --rows, first += static_cast<uint64_t>(down)) {
      const uint32_t low = static_cast<uint32_t>(first / per_block);
      const int64_t phase = static_cast<int64_t>(first % per_block),
                    more = (phase + n + per_block - 1) / per_block;
      if (low == last) --count;  // within the block in which the row before ends
      for (int64_t i = 0; i < more; i += at_once) {
        for (int k = 0; k < at_once; ++k) low_[count + i + k] = low + static_cast<uint32_t>(i + k);
      }
      put(count * per_block + phase);
      count += more;
      last = low + static_cast<uint32_t>(more - 1);
    }
    count_ = count;
  }

  int64_t count_ = 0;  // blocks
  uint32_t high_ = 0;
  uint32_t low_[blocks + larger(at_once, int64_t{Lanes::blocks})];
  alignas(64) T values_[blocks * per_block + group_size<R>];
};

// The values of a batch as memory is to have them.
template <class T>
struct Rounded {
  const T* of(Batch<T>& batch, const Rounding<T>&) const { return batch.values(); }
};
template <>
struct Rounded<Float8> {
  const Float8* of(Batch<float>& batch, const Rounding<Float8>& rounding) {
    round_all(values, batch.values(), batch.size(), rounding);
    return values;
  }
  Float8 values[Batch<float>::blocks * 4];
};

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
