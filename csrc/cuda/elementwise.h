// Distributions whose elements need no second look: uniform and normal.
#pragma once

#include "cuda/region.h"

namespace fastinit::cuda {

using Keys = RoundKeys<uint32_t>;

template <class R>
FASTINIT_INLINE Pair<Bits<Lanes, R>> block_bits(Block block, uint32_t draw, Purpose purpose,
                                                const Keys& key) {
  using U64 = typename Lanes::U64;
  return bits_of<Lanes, R>(words_of<Lanes>(U64(block.low), U64(block.high), draw, purpose, key));
}

template <class Map, class D>
FASTINIT_INLINE typename Map::P draw(Block block, const Keys& key, const D& distribution) {
  using T = typename Map::Value;
  typename Map::P pack;
  FASTINIT_UNROLL
  for (uint32_t i = 0; i < Map::blocks; ++i) {
    const auto bits = block_bits<ArithmeticFor<T>>({block.low + i, block.high}, 0, Purpose::values, key);
    const auto x = distribution.template values<Lanes>(bits);
    store_words<T>(pack.words + i * Map::P::words_per_block, x.first, x.second);
  }
  return pack;
}

template <class Map, class D>
FASTINIT_INLINE void fill_elementwise(const Map& map, uint32_t number, uint32_t thread, const Keys& key,
                                      const D& distribution) {
  const uint32_t first = number * tile<Map> + thread;
  if (map.whole(number * tile<Map>, tile<Map>)) {
    FASTINIT_UNROLL
    for (uint32_t i = 0; i < tile<Map>; i += threads) {
      put_whole(map.place(first + i), draw<Map>(map.block(first + i), key, distribution));
    }
  } else {
    FASTINIT_NO_UNROLL
    for (uint32_t i = 0; i < tile<Map>; i += threads) {
      if (first + i >= map.packs) break;
      const auto spot = map.spot(first + i);
      if (spot.from < spot.to) put(spot, draw<Map>(spot.block, key, distribution));
    }
  }
}

}  // namespace fastinit::cuda
