// The GPU's loops: as cpu/kernels.cpp, a thread taking the place of the lanes.
//
// Nothing in here needs nvcc or the CUDA runtime: tests/cuda_on_host.cpp runs the same functions on the CPU, one
// thread after the other, and compares what they write.
#pragma once

#include <numeric>
#include <type_traits>

#include "core/fill.h"
#include "cuda/lanes_thread.h"

namespace fastinit::cuda {

using Lanes = Thread;

// Threads of a thread block, lanes of a warp, and numbers that a thread draws before it looks up from its work.
constexpr uint32_t threads = 256, threads_for_sparse = 128, lanes = 32;
template <class R>
constexpr int numbers_per_thread = sizeof(R) == sizeof(double) ? 4 : 16;

template <class T>
using ArithmeticFor = typename ArithmeticOf<T>::type;

// ---- Packs: the values of one or two neighbouring blocks, of 16 bytes where that can be -----------------------------

template <class T, int Blocks>
struct alignas(Blocks* elements_per_block<ArithmeticFor<T>> * sizeof(T)) Pack {
  static constexpr int size = Blocks * elements_per_block<ArithmeticFor<T>>;
  static constexpr int words_per_block = static_cast<int>(sizeof(T)) * size / 4 / Blocks;
  uint32_t words[Blocks * words_per_block];

  FASTINIT_INLINE T operator[](int i) const {
    if constexpr (sizeof(T) == 2) {
      return {static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)))};
    } else if constexpr (sizeof(T) == 4) {
      return bit_cast<T>(words[i]);
    } else {
      return bit_cast<T>(words[2 * i] | static_cast<uint64_t>(words[2 * i + 1]) << 32);
    }
  }
  FASTINIT_INLINE void clear(int i) {
    if constexpr (sizeof(T) == 2) {
      words[i / 2] &= i % 2 == 0 ? 0xFFFF0000u : 0x0000FFFFu;
    } else if constexpr (sizeof(T) == 4) {
      words[i] = 0;
    } else {
      words[2 * i] = words[2 * i + 1] = 0;
    }
  }
};

struct Block {
  uint32_t low, high;
};

// The keys of all rounds, made once.
struct Keys {
  static constexpr int rounds = 10;
  uint32_t first_[rounds], second_[rounds];

  // `ready` may move them to where they are at hand.
  template <class F>
  FASTINIT_INLINE Keys(Key key, const F& ready) {
    FASTINIT_UNROLL
    for (int i = 0; i < rounds; ++i) {
      first_[i] = ready(key.first(i));
      second_[i] = ready(key.second(i));
    }
  }
  FASTINIT_INLINE uint32_t first(int round) const { return first_[round]; }
  FASTINIT_INLINE uint32_t second(int round) const { return second_[round]; }
};

// A pack's place: element i of it stands at p[i * stride], if from <= i < to.
template <class T>
struct Spot {
  Block block;  // the first one
  T* p;
  int64_t stride;
  int from, to;
};

template <class T, int Blocks>
FASTINIT_INLINE void put_whole(T* p, const Pack<T, Blocks>& pack) {
  *static_cast<Pack<T, Blocks>*>(__builtin_assume_aligned(p, sizeof(pack))) = pack;
}
template <class T, int Blocks>
FASTINIT_INLINE void put(const Spot<T>& spot, const Pack<T, Blocks>& pack) {
  if (spot.stride == 1 && spot.to - spot.from == pack.size &&
      reinterpret_cast<uintptr_t>(spot.p) % sizeof(pack) == 0) {
    return put_whole(spot.p, pack);
  }
  FASTINIT_UNROLL
  for (int i = 0; i < pack.size; ++i) {
    if (i >= spot.from && i < spot.to) spot.p[i * spot.stride] = pack[i];
  }
}

// ---- Maps: from the number of a pack to its place -------------------------------------------------------------------
//
// A map has fewer than 2^31 packs, so that a thread counts in 32 bits. Threads with consecutive numbers take
// consecutive packs, `tile` of them at a time for a thread block.

// Consecutive indices, consecutive in memory, in blocks that share the high half of their number: Run on the CPU.
template <class T, int Blocks>
struct Contiguous {
  using Value = T;
  static constexpr int blocks = Blocks;
  using P = Pack<T, blocks>;

  T* frame;            // element 0 of pack 0, which may lie before the run
  Block origin;        // its block, which may lie before the run too
  int64_t begin, end;  // elements of the frame that are filled
  uint32_t packs;

  static constexpr int64_t most_elements = (int64_t{1} << 30) * P::size;

  // `first + n` must not be in another 2^32 blocks than `first` is.
  Contiguous(T* out, uint64_t first, int64_t n) {
    constexpr int per_block = elements_per_block<ArithmeticFor<T>>;
    const uint64_t block = first / per_block;
    begin = static_cast<int64_t>(first % per_block);
    origin = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32)};
    // Where packs of two blocks would all straddle what is aligned, begin one block earlier.
    if (blocks == 2 && reinterpret_cast<uintptr_t>(out - begin) % sizeof(P) == sizeof(P) / 2) {
      begin += per_block;
      --origin.low;
    }
    frame = out - begin;
    end = begin + n;
    packs = static_cast<uint32_t>((end + P::size - 1) / P::size);
  }

  // Whether packs from .. from + count - 1 are all whole and aligned.
  FASTINIT_INLINE bool whole(uint32_t from, uint32_t count) const {
    const int64_t at = static_cast<int64_t>(from) * P::size;
    return reinterpret_cast<uintptr_t>(frame) % sizeof(P) == 0 && at >= begin &&
           at + static_cast<int64_t>(count) * P::size <= end;
  }
  FASTINIT_INLINE Block block(uint32_t pack) const { return {origin.low + pack * blocks, origin.high}; }
  FASTINIT_INLINE T* place(uint32_t pack) const { return frame + static_cast<int64_t>(pack) * P::size; }

  FASTINIT_INLINE Spot<T> spot(uint32_t pack) const {
    const int64_t at = static_cast<int64_t>(pack) * P::size;
    return {block(pack), place(pack), 1, at < begin ? static_cast<int>(begin - at) : 0,
            at + P::size > end ? static_cast<int>(end - at) : P::size};
  }
};

// Any region. Its dimension of consecutive indices is cut into packs of one block, its elements are the rows of the
// others; which pack comes after which is a matter of where they are in memory, so that neighbouring threads write to
// neighbouring addresses whatever the layout.
template <class T>
struct Strided {
  using Value = T;
  static constexpr int blocks = 1;
  using P = Pack<T, blocks>;

  struct Dimension {
    uint32_t size;
    int64_t stride, index_stride;
  };
  T* data;
  uint64_t first_index;
  int64_t width, stride;  // of a row
  uint32_t packs;
  int dims, row;                        // `row`: the dimension that counts the packs of a row
  Dimension dim[Region::max_dims + 1];  // the nearest in memory first

  Strided(const Region& region, T* to);
  // How many packs it would take; not to be rounded up to more than a map can have.
  static double packs_of(const Region& region);

  FASTINIT_INLINE bool whole(uint32_t, uint32_t) const { return false; }
  FASTINIT_INLINE Block block(uint32_t) const { return {}; }
  FASTINIT_INLINE T* place(uint32_t) const { return nullptr; }

  FASTINIT_INLINE Spot<T> spot(uint32_t pack) const {
    uint64_t index = first_index;
    int64_t offset = 0;
    uint32_t in_row = 0;
    FASTINIT_NO_UNROLL
    for (int d = 0; d < dims; ++d) {
      const uint32_t rest = pack / dim[d].size, c = pack - rest * dim[d].size;
      pack = rest;
      if (d == row) in_row = c;
      index += c * static_cast<uint64_t>(dim[d].index_stride);
      offset += c * dim[d].stride;
    }
    // Rows begin anywhere in a block.
    const uint64_t number = index / P::size + in_row;
    const int64_t at =
        static_cast<int64_t>(number * P::size - index);  // the pack's first element, in its row
    return {{static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32)},
            data + offset + at * stride,
            stride,
            at < 0 ? static_cast<int>(-at) : 0,
            at + P::size > width ? static_cast<int>(width - at) : P::size};
  }
};

template <class T>
double Strided<T>::packs_of(const Region& region) {
  double packs = 1;
  bool row = false;
  for (int d = region.dims; d-- > 0;) {
    const bool consecutive = !row && region.index_strides[d] == 1;
    packs *= consecutive ? static_cast<double>((region.sizes[d] + 2 * P::size - 2) / P::size)
                         : static_cast<double>(region.sizes[d]);
    row = row || consecutive;
  }
  return packs;
}

template <class T>
Strided<T>::Strided(const Region& region, T* to)
    : data(to), first_index(region.first_index), width(1), stride(0), packs(1), dims(0), row(-1), dim{} {
  bool done[Region::max_dims] = {};
  int consecutive = region.dims - 1;
  while (consecutive >= 0 && region.index_strides[consecutive] != 1) --consecutive;
  for (; dims < region.dims; ++dims) {
    int nearest = -1;
    for (int d = region.dims; d-- > 0;) {
      if (!done[d] && (nearest < 0 || region.strides[d] < region.strides[nearest])) nearest = d;
    }
    done[nearest] = true;
    if (nearest == consecutive) {
      row = dims;
      width = region.sizes[nearest];
      stride = region.strides[nearest];
      // A row that begins anywhere in a block touches one block more than its elements fill, at most.
      dim[dims].size = static_cast<uint32_t>((width + 2 * P::size - 2) / P::size);
    } else {
      dim[dims] = {static_cast<uint32_t>(region.sizes[nearest]), region.strides[nearest],
                   region.index_strides[nearest]};
    }
    packs *= dim[dims].size;
  }
}

// Blocks of a pack where the region is contiguous: as many as make 16 bytes. Sparse has no registers for more than one.
template <class T, class D>
constexpr int blocks_of_pack = sizeof(T) == 2 && !std::is_same_v<D, Sparse<float>> ? 2 : 1;

// Cuts a region into as many maps as it needs, one unless it is huge, and calls f(map) for each. `Blocks` is as in
// blocks_of_pack.
template <class T, int Blocks, class F>
void for_each_map(Region region, T* data, const F& f) {
  using Run = Contiguous<T, Blocks>;
  if (region.dims == 1 && region.strides[0] == 1 && region.index_strides[0] == 1) {
    constexpr uint64_t per_segment = uint64_t{elements_per_block<ArithmeticFor<T>>} << 32;
    for (int64_t n = region.sizes[0]; n > 0;) {
      const uint64_t room = per_segment - region.first_index % per_segment;
      int64_t part = n < Run::most_elements ? n : Run::most_elements;
      if (static_cast<uint64_t>(part) > room) part = static_cast<int64_t>(room);
      f(Run(data, region.first_index, part));
      data += part;
      region.first_index += static_cast<uint64_t>(part);
      n -= part;
    }
  } else if (Strided<T>::packs_of(region) < 0x1p31) {
    f(Strided<T>(region, data));
  } else {  // the two halves of the longest dimension
    int d = 0;
    for (int i = 1; i < region.dims; ++i) d = region.sizes[i] > region.sizes[d] ? i : d;
    Region half = region;
    half.sizes[d] = region.sizes[d] / 2;
    for_each_map<T, Blocks>(half, data, f);
    data += half.sizes[d] * region.strides[d];
    region.first_index += static_cast<uint64_t>(half.sizes[d] * region.index_strides[d]);
    region.sizes[d] -= half.sizes[d];
    for_each_map<T, Blocks>(region, data, f);
  }
}

// A thread block's share of a map at a time.
template <class Map>
constexpr uint32_t packs_per_thread = numbers_per_thread<ArithmeticFor<typename Map::Value>> / Map::P::size;
template <class Map>
constexpr uint32_t tile = threads* packs_per_thread<Map>;
template <class Map>
FASTINIT_INLINE uint32_t tiles(const Map& map) {
  return (map.packs + tile<Map> - 1) / tile<Map>;
}

// ---- Distributions whose elements need no second look: uniform and normal -------------------------------------------

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

// ---- Rejection sampling ---------------------------------------------------------------------------------------------
//
// A warp draws its packs, stores them, and remembers the elements that were rejected. As soon as it remembers one for
// each lane it draws those anew, all lanes at work, and so on; what is left at the end fills no warp any more, once.

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
template <Proposal P, class Map, class D>
FASTINIT_INLINE typename Map::P first_attempts(Block block, const Keys& key, const D& distribution,
                                               uint32_t& rejected) {
  using T = typename Map::Value;
  using R = ArithmeticFor<T>;
  constexpr uint32_t pairs = elements_per_block<R> / 2;
  typename Map::P pack;
  FASTINIT_UNROLL
  for (uint32_t i = 0; i < Map::blocks; ++i) {
    const Block b{block.low + i, block.high};
    const auto bits = block_bits<R>(b, 0, Purpose::values, key);
    const auto coin = P == Proposal::normal ? bits : block_bits<R>(b, 0, Purpose::accept, key);
    const auto x = distribution.template attempt<Lanes, P>(bits, coin);
    store_words<T>(pack.words + i * Map::P::words_per_block, x.values.first, x.values.second);
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
template <Proposal P, class Map, class D>
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
      P == Proposal::normal
          ? bits
          : attempt_bits<P>(pair_for_one(block, element, x.draw, Purpose::accept, key, R()), own);
  const auto result = distribution.template attempt<Lanes, P>(bits, coin);
  const bool accepted = second ? result.accepted.second.v[0] : result.accepted.first.v[0];
  if (!accepted && x.draw + 1u < max_attempts) return false;
  spot.p[element * spot.stride] = round_to<T>(second ? result.values.second.v[0] : result.values.first.v[0]);
  return true;
}

// First attempts of a lane's packs of a tile.
template <Proposal P, class Map, class D, class S>
FASTINIT_INLINE void begin_tile(const Map& map, uint32_t number, uint32_t thread, const Keys& key,
                                const D& distribution, S& stack) {
  const uint32_t first = number * tile<Map> + thread;
  uint32_t rejected = 0;
  if (map.whole(number * tile<Map>, tile<Map>)) {
    FASTINIT_UNROLL
    for (uint32_t i = 0; i < packs_per_thread<Map>; ++i) {
      const uint32_t pack = first + i * threads;
      uint32_t r = 0;
      put_whole(map.place(pack), first_attempts<P, Map>(map.block(pack), key, distribution, r));
      rejected |= r << (i * Map::P::size);
    }
  } else {
    FASTINIT_NO_UNROLL
    for (uint32_t i = 0; i < packs_per_thread<Map>; ++i) {
      const uint32_t pack = first + i * threads;
      if (pack >= map.packs) break;
      const auto spot = map.spot(pack);
      if (spot.from >= spot.to) continue;
      uint32_t r = 0;
      put(spot, first_attempts<P, Map>(spot.block, key, distribution, r));
      r &= (1u << spot.to) - (1u << spot.from);
      rejected |= r << (i * Map::P::size);
    }
  }
  if (rejected == 0) return;
  for (Pending* to = stack.claim(count_bits(rejected)); rejected != 0; ++to) {
    const uint32_t element = highest_bit(rejected);
    rejected ^= 1u << element;
    *to = {first, static_cast<uint16_t>(element), 1};
  }
}

// The work of one warp: tiles number, number + step, ... Warp::each(f) calls f(lane) for all lanes and waits for all of
// them, so that what one call writes, all later ones may read.
template <Proposal P, class Map, class D, class Warp, class S>
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

// ---- Sparse: an exact number of zeros in each column ----------------------------------------------------------------

// The zeros in the columns of one block, row by row: ZeroStrip on the CPU. What a column's Philox words say is computed
// once for many rows, and kept in shared memory: word i of all columns is words[i * stride].
template <class R>
class ZeroColumns {
 public:
  static constexpr int width = elements_per_block<R>;
  using U32 = Array<uint32_t, width>;
  struct alignas(4 * width) Word {
    uint32_t of[width];
  };
  static constexpr uint32_t words_of_column = 2 * Sparse<R>::most_rounds;

  FASTINIT_INLINE ZeroColumns(const Sparse<R>& d, const Keys& key, Word* words, uint32_t stride)
      : d_(d), key_(key), words_(words), stride_(stride) {}

  // Which of the `width` numbers from `column` on, going round at the end of a row, are zero in this row. Rows had better
  // come in rising order.
  FASTINIT_INLINE Array<bool, width> zero(uint64_t row, uint64_t column) {
    if (column != column_ || row + 1 < next_row_) restart(column);
    if (d_.selects()) {
      FASTINIT_NO_UNROLL
      for (; next_row_ <= row; ++next_row_) select_row();
      return zero_;
    }
    return d_.rounds == 6 ? permute<6>(row) : permute<8>(row);
  }

 private:
  FASTINIT_INLINE void restart(uint64_t column) {
    column_ = column;
    next_row_ = 0;
    if (d_.selects()) {
      left_ = U32(d_.zeros);
    } else {
      FASTINIT_NO_UNROLL
      for (int draw = 0; 4 * draw < 2 * d_.rounds; ++draw) load_words(draw, 4 * draw);
    }
  }

  // Words to .. to + 3 of the columns: those of their block `draw`.
  FASTINIT_INLINE void load_words(int draw, int to) {
    Word words[4];
    uint64_t number = column_;
    FASTINIT_UNROLL
    for (int i = 0; i < width; ++i) {
      using U64 = Lanes::U64;
      const uint64_t column = d_.parts == 2 ? number / 2 : number;
      const auto w = words_of<Lanes>(U64(column), U64(column >> 32), static_cast<uint32_t>(draw),
                                     Purpose::columns, key_);
      FASTINIT_UNROLL
      for (int j = 0; j < 4; ++j) words[j].of[i] = static_cast<uint32_t>(w.w[j].v[0]);
      number = number + 1 == d_.columns ? 0 : number + 1;
    }
    FASTINIT_UNROLL
    for (int j = 0; j < 4; ++j) words_[static_cast<uint32_t>(to + j) * stride_] = words[j];
  }
  FASTINIT_INLINE U32 word(int i) const {
    const Word word = words_[static_cast<uint32_t>(i) * stride_];
    U32 r;
    FASTINIT_UNROLL
    for (int j = 0; j < width; ++j) r.v[j] = word.of[j];
    return r;
  }

  FASTINIT_INLINE void select_row() {
    const int i = static_cast<int>(next_row_ % 4);
    if (i == 0) load_words(static_cast<int>(next_row_ / 4), 0);
    zero_ = d_.selected(next_row_, word(i), left_);
    left_ = left_ - select(zero_, U32(1u), U32(0u));
  }

  template <int Rounds>
  FASTINIT_INLINE Array<bool, width> permute(uint64_t row) const {
    const auto cell = d_.cell(row);
    const U32 first = d_.template shift<Sparse<R>::Grid::ragged>(U32(cell.high), word(0), word(1));
    return d_.template permuted_to_zero<Sparse<R>::Grid::ragged, Rounds>(cell, first,
                                                                         [&](int i) { return word(i); });
  }

  const Sparse<R>& d_;
  const Keys& key_;
  Word* words_;
  uint32_t stride_;
  uint64_t column_ = ~uint64_t{0}, next_row_ = 0;
  U32 left_ = U32(0u);                                   // zeros still to come (selection)
  Array<bool, width> zero_ = Array<bool, width>(false);  // in the row before next_row_ (selection)
};

// The order in which a thread goes through the packs of a sparse matrix: down the rows, in the same columns, and then on
// to other columns. Pack (row, other) has the number row * stride + other % stride + other / stride * stride * rows.
struct Walk {
  uint32_t stride, rows, others;
  // Threads share the rows of the same columns, or other columns, as many at a time.
  uint32_t rows_at_once, others_at_once;
  bool rows_first;  // threads with neighbouring numbers differ in the row

  FASTINIT_INLINE uint32_t threads() const { return rows_at_once * others_at_once; }
  FASTINIT_INLINE uint32_t first_row(uint32_t thread) const {
    return rows_first ? thread % rows_at_once : thread / others_at_once;
  }
  FASTINIT_INLINE uint32_t first_other(uint32_t thread) const {
    return rows_first ? thread / rows_at_once : thread % others_at_once;
  }
  FASTINIT_INLINE uint32_t pack(uint32_t row, uint32_t other) const {
    const uint32_t beyond = other / stride;
    return row * stride + (other - beyond * stride) + beyond * stride * rows;
  }

  Walk(uint32_t stride, uint32_t rows, uint32_t others, uint32_t all_threads)
      : stride(stride), rows(rows), others(others), rows_first(stride == 1 && rows > 1) {
    const auto at_most = [](uint32_t a, uint32_t b) { return a < b ? a : b; };
    others_at_once = at_most(others, rows_first ? (all_threads + lanes - 1) / lanes : all_threads);
    rows_at_once = at_most(rows, all_threads / others_at_once);
    if (rows_at_once == 0) rows_at_once = 1;
  }
};

template <class T, class R>
Walk walk_of(const Contiguous<T, 1>& map, const Sparse<R>& d, uint32_t all_threads) {
  // After so many packs the columns are the same again.
  const uint64_t period = d.columns / std::gcd(d.columns, uint64_t{Contiguous<T, 1>::P::size});
  if (period >= map.packs) return Walk(map.packs, 1, map.packs, all_threads);
  const uint32_t stride = static_cast<uint32_t>(period);
  return Walk(stride, (map.packs + stride - 1) / stride, stride, all_threads);
}
template <class T, class R>
Walk walk_of(const Strided<T>& map, const Sparse<R>& d, uint32_t all_threads) {
  uint32_t stride = 1;
  for (int i = 0; i < map.dims; stride *= map.dim[i++].size) {
    const uint32_t rows = map.dim[i].size;
    if (i != map.row && static_cast<uint64_t>(map.dim[i].index_stride) == d.columns) {
      return Walk(stride, rows, map.packs / rows, all_threads);
    }
  }
  return Walk(map.packs, 1, map.packs, all_threads);  // right, but in no good order
}

// One thread's share.
template <class Map, class R>
FASTINIT_INLINE void fill_sparse(const Map& map, const Walk& walk, uint32_t thread, const Keys& key,
                                 const Sparse<R>& d, ZeroColumns<R> columns) {
  static_assert(Map::blocks == 1);
  constexpr int width = ZeroColumns<R>::width;
  for (uint32_t other = walk.first_other(thread); other < walk.others; other += walk.others_at_once) {
    for (uint32_t down = walk.first_row(thread); down < walk.rows; down += walk.rows_at_once) {
      const uint32_t number = walk.pack(down, other);
      if (number >= map.packs) break;
      const auto spot = map.spot(number);
      if (spot.from >= spot.to) continue;
      const uint64_t index = (spot.block.low | static_cast<uint64_t>(spot.block.high) << 32) * width;
      uint64_t row = index / d.columns;
      const uint64_t column = index - row * d.columns;
      auto pack = draw<Map>(spot.block, key, d.normal);
      uint64_t rest = d.columns - column;  // of the row
      FASTINIT_NO_UNROLL
      for (int begin = 0; begin < width;
           ++row, rest = d.columns) {  // once, unless a row ends within the block
        const int end = rest < static_cast<uint64_t>(width - begin) ? begin + static_cast<int>(rest) : width;
        const auto zero = columns.zero(row, column);
        FASTINIT_UNROLL
        for (int i = 0; i < width; ++i) {
          if (i >= begin && i < end && zero.v[i]) pack.clear(i);
        }
        begin = end;
      }
      put(spot, pack);
    }
  }
}

}  // namespace fastinit::cuda
