// The 32-bit words of the stream (contract C1, C2) in an order, for test batteries: what element i of a float32 fill owns is
// word i.
//
//   index  the words of one key, in index order
//   keys   word i of keys k, k + 1, ... k + 255 in turn, then word i + 1
//   low    the low 8 bits of words 4 i to 4 i + 3
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/stream.h"

namespace fastinit {

class StreamWords {
 public:
  StreamWords(const std::string& order, uint64_t key) : order_(order), key_(key) {
    if (order != "index" && order != "keys" && order != "low") throw std::invalid_argument(order);
  }

  // The next words; how many differs between the orders.
  const std::vector<uint32_t>& next() {
    if (order_ == "keys") {
      constexpr int keys = 256;
      uint32_t words[at_once];
      words_.resize(keys * at_once);
      for (int k = 0; k < keys; ++k) {
        generate(key_ + static_cast<uint64_t>(k), words);
        for (int i = 0; i < at_once; ++i) words_[static_cast<size_t>(i * keys + k)] = words[i];
      }
      block_ += Lanes::blocks;
      return words_;
    }
    constexpr int rounds = 256;
    words_.resize(rounds * at_once);
    for (int i = 0; i < rounds; ++i, block_ += Lanes::blocks)
      generate(key_, &words_[static_cast<size_t>(i * at_once)]);
    if (order_ == "low") {
      for (size_t i = 0; i < words_.size() / 4; ++i) {
        const uint32_t* w = &words_[4 * i];
        words_[i] = (w[0] & 255) | (w[1] & 255) << 8 | (w[2] & 255) << 16 | w[3] << 24;
      }
      words_.resize(words_.size() / 4);
    }
    return words_;
  }

 private:
  using Lanes = Portable<8>;
  static constexpr int at_once = 4 * Lanes::blocks;

  void generate(uint64_t key, uint32_t* words) const {
    const auto block = Lanes::block_offsets() + Lanes::U64(block_);
    const auto pairs =
        bits_of<Lanes, float>(words_of<Lanes>(block, shift_right<32>(block), 0, Purpose::values, Key{key}));
    for (int i = 0; i < at_once / 2; ++i) {
      words[2 * i] = pairs.first.v[i];
      words[2 * i + 1] = pairs.second.v[i];
    }
  }

  std::string order_;
  uint64_t key_, block_ = 0;
  std::vector<uint32_t> words_;
};

}  // namespace fastinit
