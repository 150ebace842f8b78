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
FASTINIT_INLINE typename Map::P draw(const Map& map, Block block, const Keys& key, const D& distribution) {
  using T = typename Map::Value;
  typename Map::P pack;
  FASTINIT_UNROLL
  for (uint32_t i = 0; i < Map::blocks; ++i) {
    const auto bits = block_bits<ArithmeticFor<T>>({block.low + i, block.high}, 0, Purpose::values, key);
    const auto x = distribution.template values<Lanes>(bits);
    store_words<T>(pack.words + i * Map::P::words_per_block, x.first, x.second, map.rounding);
  }
  return pack;
}

// The pack of the next lane. On the host, where one lane has its turn after the other, it is drawn again.
template <class P, class F>
FASTINIT_INLINE P from_next_lane([[maybe_unused]] const P& pack, [[maybe_unused]] const F& draw_next) {
#if defined(__CUDA_ARCH__)
  P next;
  FASTINIT_UNROLL
  for (uint32_t i = 0; i < sizeof(P) / 4; ++i) next.words[i] = __shfl_down_sync(~0u, pack.words[i], 1);
  return next;
#else
  return draw_next();
#endif
}

// Stores the packs of a warp, one a lane, that lie inside a run which is not aligned to packs. A lane stores what is
// aligned, parts of its pack and of the next lane's; what is left at the ends of the warp's packs goes element by element.
template <class Map, class F>
FASTINIT_INLINE void put_shifted(const Map& map, uint32_t number, uint32_t thread,
                                 const typename Map::P& pack, const F& draw_next) {
  constexpr int size = Map::P::size, element = sizeof(typename Map::Value);
  const uint32_t lane = thread % lanes;
  const int skipped = size - static_cast<int>(map.shift) / element;
  const auto both = straddling(pack, from_next_lane(pack, draw_next), sizeof(pack) - map.shift);
  auto spot = map.spot(number);
  if (lane != lanes - 1) {
    put_whole(spot.p + skipped, both);
    spot.to = lane == 0 ? skipped : 0;
  } else {
    spot.from = skipped;
  }
  put_elements(spot, pack);
}

// A thread's packs of a tile that lies inside a run: draw(i) is the i-th, and draw_at(number) any.
template <class Map, class F, class G>
FASTINIT_INLINE void fill_inside(const Map& map, uint32_t first, uint32_t thread, const F& draw,
                                 const G& draw_at) {
  if (map.shift == 0) {
    auto* const p = map.place(first);
    FASTINIT_UNROLL
    for (uint32_t i = 0; i < packs_per_thread<Map>; ++i) put_whole(p + i * threads * Map::P::size, draw(i));
  } else {
    FASTINIT_NO_UNROLL
    for (uint32_t i = 0; i < packs_per_thread<Map>; ++i) {
      const uint32_t number = first + i * threads;
      put_shifted(map, number, thread, draw(i), [&] { return draw_at(number + 1); });
    }
  }
}

template <class Map, class D>
FASTINIT_INLINE void fill_pack(const Map& map, uint32_t number, const Keys& key, const D& distribution) {
  if (number >= map.packs) return;
  const auto spot = map.spot(number);
  if (spot.from < spot.to) put(spot, draw(map, spot.block, key, distribution));
}

template <class Map, class D>
FASTINIT_INLINE void fill_elementwise(const Map& map, uint32_t number, uint32_t thread, const Keys& key,
                                      const D& distribution) {
  const uint32_t first = number * tile<Map> + thread;
  if constexpr (Map::contiguous) {
    if (map.inside(number * tile<Map>, tile<Map>)) {
      const auto draw_at = [&](uint32_t pack) { return draw(map, map.block(pack), key, distribution); };
      return fill_inside(
          map, first, thread, [&](uint32_t i) { return draw_at(first + i * threads); }, draw_at);
    }
  }
  FASTINIT_NO_UNROLL
  for (uint32_t i = 0; i < packs_per_thread<Map>; ++i) {
    fill_pack(map, first + i * threads, key, distribution);
  }
}

// Calls f with the distribution in the form that takes the fewest instructions.
template <class D, class F>
void with_cheapest(const D& distribution, const F& f) {
  f(distribution);
}
template <class R, class F>
void with_cheapest(const Uniform<R>& distribution, const F& f) {
  UniformOnGrid<R>::equals(distribution) ? f(UniformOnGrid<R>(distribution)) : f(distribution);
}
template <class R, class F>
void with_cheapest(const TruncatedNormal<R>& distribution, const F& f) {
  using Range = Quantile::Range;
  const TruncatedNormal<R>& d = distribution;
  if (d.certain && d.method == Method::normal && !d.outside) return f(Normal<R>{d.mean, d.std});
  if constexpr (std::is_same_v<R, float>) {
    if (d.method == Method::quantile) {
      switch (d.quantile.range) {
        case Range::near:
          return f(TruncatedNormalIn<Range::near>{d});
        case Range::central:
          return f(TruncatedNormalIn<Range::central>{d});
        case Range::wide:
          return f(TruncatedNormalIn<Range::wide>{d});
      }
    }
  }
  f(d);
}

}  // namespace fastinit::cuda
