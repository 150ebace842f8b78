// Many short rows at once: the blocks of the stream that they are in, wherever these are, are drawn side by side.
#pragma once

#include "cpu/run.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// Whole blocks with any numbers, in place of the consecutive ones of a Run: block k is block base + numbers[k].
template <class R>
struct Scattered {
  uint64_t base;
  const uint32_t* numbers;  // readable up to a whole group
  int64_t n;                // elements
  const Keys& keys;

  int skipped() const { return 0; }
};

template <class R>
FASTINIT_INLINE Pair<Bits<Lanes, R>> group_bits(const Scattered<R>& run, int64_t block, Purpose purpose) {
  const auto number = Lanes::U64(run.base) + Lanes::blocks_at(run.numbers + block);
  return bits_of<Lanes, R>(words_of<Lanes>(number, shift_right<32>(number), 0, purpose, run.keys));
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

  // For how many consecutive indices from `first` on there is room. Larger indices come after smaller ones.
  int64_t room(uint64_t first) const {
    const uint64_t number = first / per_block - base_;
    const int64_t phase = static_cast<int64_t>(first % per_block);
    if (count_ == 0) return blocks * per_block - phase;
    if (number > low_half / 2) return 0;
    return (blocks - count_ + (numbers_[count_ - 1] == number ? 1 : 0)) * per_block - phase;
  }

  // Adds n indices from `first` on, for which there is room, and says where their values will be.
  int64_t add(uint64_t first, int64_t n) {
    const int64_t phase = static_cast<int64_t>(first % per_block);
    if (count_ == 0) base_ = first / per_block;
    const uint32_t number = static_cast<uint32_t>(first / per_block - base_);
    if (count_ > 0 && numbers_[count_ - 1] == number) --count_;  // in the block in which the row before ends
    const int64_t at = count_ * per_block + phase, more = (phase + n + per_block - 1) / per_block;
    for (int64_t i = 0; i < more; i += at_once) {
      for (int64_t k = 0; k < at_once; ++k) numbers_[count_ + i + k] = number + static_cast<uint32_t>(i + k);
    }
    count_ += more;
    return at;
  }

  bool empty() const { return count_ == 0; }
  void clear() { count_ = 0; }

  template <class D>
  void draw(const Keys& keys, const D& distribution) {
    for (int i = 0; i < Lanes::blocks; ++i) numbers_[count_ + i] = 0;
    fill_segment(values_, Scattered<R>{base_, numbers_, count_ * per_block, keys}, distribution, false);
  }
  T* values() { return values_; }
  const T* values() const { return values_; }
  // Of the value at that place.
  uint64_t index(int64_t at) const {
    return (base_ + numbers_[at / per_block]) * per_block + static_cast<uint64_t>(at % per_block);
  }

 private:
  static constexpr int64_t at_once = 16;  // a vector of them, some of them beyond the row

  int64_t count_ = 0;  // blocks
  uint64_t base_ = 0;
  uint32_t numbers_[blocks + larger(at_once, int64_t{Lanes::blocks})];
  alignas(64) T values_[blocks * per_block + group_size<R>];
};

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
