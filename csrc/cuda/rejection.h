// The truncated normal: rejection sampling by warps.
//
// A warp draws its packs, stores them, and remembers the elements that were rejected. As soon as it remembers one for
// each lane it draws those anew, all lanes at work, and so on; what is left at the end fills no warp any more, once.
#pragma once

#include "cuda/elementwise.h"

namespace fastinit::cuda {

// An element that waits for its attempt number `draw`: the one with this number among those of its thread in a tile,
// whose first pack is given.
struct alignas(8) Pending {
  uint32_t pack;
  uint16_t element, draw;
};
static_assert(max_attempts <= 0xFFFF);

// What a warp remembers, in shared memory.
template <class R>
struct Stack {
  // Fewer than a warp's worth is left when a tile begins.
  static constexpr uint32_t capacity = lanes * (1 + numbers_per_thread<R>);
  uint32_t size;
  Pending entries[capacity];

  // Room for n more, for this thread alone.
  FASTINIT_INLINE Pending* claim(uint32_t n) {
#if defined(__CUDA_ARCH__)
    return entries + atomicAdd(&size, n);
#else
    size += n;
    return entries + (size - n);
#endif
  }
};

FASTINIT_INLINE uint32_t count_bits(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return static_cast<uint32_t>(__popc(static_cast<int>(x)));
#else
  return static_cast<uint32_t>(__builtin_popcount(x));
#endif
}
FASTINIT_INLINE uint32_t highest_bit(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return 31 - static_cast<uint32_t>(__clz(static_cast<int>(x)));
#else
  return 31 - static_cast<uint32_t>(__builtin_clz(x));
#endif
}

// All attempts number 0 of a pack; sets the bits of those that were rejected.
template <Method P, class Map, class D>
FASTINIT_INLINE typename Map::P first_attempts(const Map& map, Block block, const Keys& key,
                                               const D& distribution, uint32_t& rejected) {
  using T = typename Map::Value;
  using R = ArithmeticFor<T>;
  constexpr uint32_t pairs = elements_per_block<R> / 2;
  typename Map::P pack;
  FASTINIT_UNROLL
  for (uint32_t i = 0; i < Map::blocks; ++i) {
    const Block b{block.low + i, block.high};
    const auto bits = block_bits<R>(b, 0, Purpose::values, key);
    const auto coin = !has_coin<P> ? bits : block_bits<R>(b, 0, Purpose::accept, key);
    const auto x = distribution.template attempt<Lanes, P>(bits, coin);
    store_words<T>(pack.words + i * Map::P::words_per_block, x.values.first, x.values.second, map.rounding);
    FASTINIT_UNROLL
    for (uint32_t j = 0; j < pairs; ++j) {
      if (!x.accepted.first.v[j]) rejected |= 1u << (2 * (i * pairs + j));
      if (!x.accepted.second.v[j]) rejected |= 2u << (2 * (i * pairs + j));
    }
  }
  return pack;
}

// The pair of words that a single element's is one of.
FASTINIT_INLINE Pair<Lanes::U32> pair_for_one(Block block, uint32_t element, uint32_t draw, Purpose purpose,
                                              const Keys& key, float) {
  using U64 = Lanes::U64;
  const auto pair =
      pair_of(words_of<Lanes>(U64(block.low), U64(block.high), draw, purpose, key), U64(element));
  return {interleave(pair.first, pair.first), interleave(pair.second, pair.second)};
}
FASTINIT_INLINE Pair<Lanes::U64> pair_for_one(Block block, uint32_t, uint32_t draw, Purpose purpose,
                                              const Keys& key, double) {
  return block_bits<double>(block, draw, purpose, key);
}

// One more attempt. Stores what it ends with, and returns false, if that is not the end.
template <Method P, class Map, class D>
FASTINIT_INLINE bool attempt_again(const Map& map, Pending x, const Keys& key, const D& distribution) {
  using T = typename Map::Value;
  using R = ArithmeticFor<T>;
  const auto spot = map.spot(x.pack + x.element / Map::P::size * threads);
  const uint32_t element = x.element % Map::P::size;
  const Block block{spot.block.low + element / elements_per_block<R>, spot.block.high};
  const bool second = (element & 1) != 0;
  const Array<bool, Bits<Lanes, R>::lanes> own(second);
  const auto bits = attempt_bits<P>(pair_for_one(block, element, x.draw, Purpose::values, key, R()), own);
  const auto coin =
      !has_coin<P> ? bits
                   : attempt_bits<P>(pair_for_one(block, element, x.draw, Purpose::accept, key, R()), own);
  const auto result = distribution.template attempt<Lanes, P>(bits, coin);
  const bool accepted = second ? result.accepted.second.v[0] : result.accepted.first.v[0];
  if (!accepted && x.draw + 1u < max_attempts) return false;
  spot.p[element * spot.stride] = map.rounding(second ? result.values.second.v[0] : result.values.first.v[0]);
  return true;
}

// First attempts of a lane's packs of a tile; a bit for each element that was rejected.
template <Method P, class Map, class D>
FASTINIT_INLINE uint32_t first_attempts_of_tile(const Map& map, uint32_t number, uint32_t thread,
                                                const Keys& key, const D& distribution) {
  const uint32_t first = number * tile<Map> + thread;
  uint32_t rejected = 0;
  if constexpr (Map::contiguous) {
    if (map.inside(number * tile<Map>, tile<Map>)) {
      const auto draw_at = [&](uint32_t at, uint32_t* r) {
        return first_attempts<P>(map, map.block(at), key, distribution, *r);
      };
      const auto draw = [&](uint32_t i) {
        uint32_t r = 0;
        const auto pack = draw_at(first + i * threads, &r);
        rejected |= r << (i * Map::P::size);
        return pack;
      };
      const auto draw_for_neighbour = [&](uint32_t at) {
        uint32_t not_mine = 0;
        return draw_at(at, &not_mine);
      };
      fill_inside(map, first, thread, draw, draw_for_neighbour);
      return rejected;
    }
  }
  FASTINIT_NO_UNROLL
  for (uint32_t i = 0; i < packs_per_thread<Map>; ++i) {
    const uint32_t pack = first + i * threads;
    if (pack >= map.packs) break;
    const auto spot = map.spot(pack);
    if (spot.from >= spot.to) continue;
    uint32_t r = 0;
    put(spot, first_attempts<P>(map, spot.block, key, distribution, r));
    r &= (1u << spot.to) - (1u << spot.from);
    rejected |= r << (i * Map::P::size);
  }
  return rejected;
}

template <Method P, class Map, class D, class S>
FASTINIT_INLINE void begin_tile(const Map& map, uint32_t number, uint32_t thread, const Keys& key,
                                const D& distribution, S& stack) {
  uint32_t rejected = first_attempts_of_tile<P>(map, number, thread, key, distribution);
  if (rejected == 0) return;
  const uint32_t first = number * tile<Map> + thread;
  for (Pending* to = stack.claim(count_bits(rejected)); rejected != 0; ++to) {
    const uint32_t element = highest_bit(rejected);
    rejected ^= 1u << element;
    *to = {first, static_cast<uint16_t>(element), 1};
  }
}

// The work of one warp: tiles number, number + step, ... Warp::each(f) calls f(lane) for all lanes and waits for all of
// them, so that what one call writes, all later ones may read.
template <Method P, class Map, class D, class Warp, class S>
FASTINIT_INLINE void fill_by_rejection(const Map& map, uint32_t number, uint32_t step, const Keys& key,
                                       const D& distribution, Warp& warp, S& stack) {
  typename Warp::template PerLane<Pending> pending;
  const auto redo_while_at_least = [&](uint32_t least) {
    for (uint32_t size; (size = warp.read(stack.size)) >= least;) {
      const uint32_t count = size < lanes ? size : lanes;
      warp.each([&](uint32_t lane) {
        if (lane < count) pending[lane] = stack.entries[size - count + lane];
        if (lane == 0) stack.size = size - count;
      });
      warp.each([&](uint32_t lane) {
        if (lane >= count || attempt_again<P>(map, pending[lane], key, distribution)) return;
        ++pending[lane].draw;
        *stack.claim(1) = pending[lane];
      });
    }
  };

  warp.each([&](uint32_t lane) {
    if (lane == 0) stack.size = 0;
  });
  for (; number < tiles(map); number += step) {
    warp.each(
        [&](uint32_t lane) { begin_tile<P>(map, number, warp.first + lane, key, distribution, stack); });
    redo_while_at_least(lanes);
  }
  redo_while_at_least(1);
}

}  // namespace fastinit::cuda
