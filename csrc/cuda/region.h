// From a region to packs: the values of one or two blocks, and where each thread's lie in memory.
//
// Nothing in the headers of this folder needs nvcc or the CUDA runtime: tests/native/cuda_on_host.cpp runs the same
// functions on the CPU, one thread after the other, and test_cuda_on_host.py compares what they write.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/fill.h"
#include "cuda/lanes_thread.h"

namespace fastinit::cuda {

using Lanes = Thread;

// Threads of a thread block, lanes of a warp, and numbers that a thread draws before it looks up from its work.
constexpr uint32_t threads = 256, threads_for_sparse = 128, lanes = 32;
// Thread blocks that a multiprocessor is to have registers for. Of elementwise fills: with 64 registers a thread, the
// constants of polynomials need not be made anew for each use; float64 and the widest range of quantiles need more. Of
// sparse ones: as many as share its shared memory.
template <class D>
constexpr bool needs_registers = sizeof(typename D::Arithmetic) == sizeof(double) ||
                                 std::is_same_v<D, TruncatedNormalIn<Quantile::Range::wide>>;
template <class D>
constexpr uint32_t thread_blocks_at_once = needs_registers<D> ? 3 : 4;
constexpr uint32_t thread_blocks_at_once_for_sparse = 6;
template <class R>
constexpr int numbers_per_thread = sizeof(R) == sizeof(double) ? 4 : 16;

// The values of one or two neighbouring blocks, of 16 bytes where that can be.
template <class T, int Blocks>
struct alignas(Blocks* elements_per_block<ArithmeticFor<T>> * sizeof(T)) Pack {
  static constexpr int size = Blocks * elements_per_block<ArithmeticFor<T>>;
  static constexpr int words_per_block = static_cast<int>(sizeof(T)) * size / 4 / Blocks;
  uint32_t words[Blocks * words_per_block];

  FASTINIT_INLINE T operator[](int i) const {
    if constexpr (sizeof(T) == 1) {
      return {static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)))};
    } else if constexpr (sizeof(T) == 2) {
      return {static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)))};
    } else if constexpr (sizeof(T) == 4) {
      return bit_cast<T>(words[i]);
    } else {
      return bit_cast<T>(words[2 * i] | static_cast<uint64_t>(words[2 * i + 1]) << 32);
    }
  }
  FASTINIT_INLINE void clear(int i) {
    if constexpr (sizeof(T) == 1) {
      words[i / 4] &= ~(0xFFu << (8 * (i % 4)));
    } else if constexpr (sizeof(T) == 2) {
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
FASTINIT_INLINE void put_elements(const Spot<T>& spot, const Pack<T, Blocks>& pack) {
  FASTINIT_UNROLL
  for (int i = 0; i < pack.size; ++i) {
    if (i >= spot.from && i < spot.to) spot.p[i * spot.stride] = pack[i];
  }
}

// The bytes of a pack from `skipped` on, and as many of the one after it as make a pack.
template <class T, int Blocks>
FASTINIT_INLINE Pack<T, Blocks> straddling(const Pack<T, Blocks>& pack, const Pack<T, Blocks>& next,
                                           uint32_t skipped) {
  constexpr int n = sizeof(pack) / 4;
  uint32_t words[2 * n];
  FASTINIT_UNROLL
  for (int i = 0; i < n; ++i) {
    words[i] = pack.words[i];
    words[n + i] = next.words[i];
  }
  // Binary digits of `skipped` one after the other, so that no word is looked up in memory.
  FASTINIT_UNROLL
  for (int step = n / 2; step > 0; step /= 2) {
    FASTINIT_UNROLL
    for (int i = 0; i < 2 * n - step; ++i) words[i] = (skipped / 4 & step) != 0 ? words[i + step] : words[i];
  }
  Pack<T, Blocks> r;
  FASTINIT_UNROLL
  for (int i = 0; i < n; ++i) {
    r.words[i] = words[i];
    if constexpr (sizeof(T) == 2) {
      const uint64_t both = words[i] | static_cast<uint64_t>(words[i + 1]) << 32;
      r.words[i] = static_cast<uint32_t>(both >> (skipped % 4 * 8));
    }
  }
  return r;
}

template <class T, int Blocks>
FASTINIT_INLINE void put(const Spot<T>& spot, const Pack<T, Blocks>& pack) {
  if (spot.stride == 1 && spot.to - spot.from == pack.size &&
      reinterpret_cast<uintptr_t>(spot.p) % sizeof(pack) == 0) {
    return put_whole(spot.p, pack);
  }
  put_elements(spot, pack);
}

// Maps: from the number of a pack to its place.
//
// A map has fewer than 2^31 packs, so that a thread counts in 32 bits. Threads with consecutive numbers take
// consecutive packs, `tile` of them at a time for a thread block.

// Consecutive indices, consecutive in memory, in blocks that share the high half of their number: Run on the CPU.
template <class T, int Blocks>
struct Contiguous {
  using Value = T;
  static constexpr bool contiguous = true;
  static constexpr int blocks = Blocks;
  using P = Pack<T, blocks>;

  T* frame;                       // element 0 of pack 0, which may lie before the run
  Block origin;                   // its block, which may lie before the run too
  int64_t begin, end;             // elements of the frame that are filled
  uint32_t packs;                 // of the frame
  uint32_t whole_from, whole_to;  // these packs lie within the run
  uint32_t shift;                 // bytes from the last multiple of a pack's size to the frame
  Rounding<T> rounding;

  static constexpr int64_t most_elements = (int64_t{1} << 30) * P::size;

  // `first + n` must not be in another 2^32 blocks than `first` is.
  Contiguous(T* out, uint64_t first, int64_t n, Rounding<T> rounding) : rounding(rounding) {
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
    whole_from = begin == 0 ? 0 : 1;
    whole_to = static_cast<uint32_t>(end / P::size);
    shift = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(frame) % sizeof(P));
  }

  // Whether packs from .. from + count - 1 all lie within the run.
  FASTINIT_INLINE bool inside(uint32_t from, uint32_t count) const {
    return from >= whole_from && from + count <= whole_to;
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
  static constexpr bool contiguous = false;
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
  int dims, row;  // `row`: the dimension that counts the packs of a row
  Rounding<T> rounding;
  Dimension dim[Region::max_dims + 1];  // the nearest in memory first

  Strided(const Region& region, T* to, Rounding<T> rounding);
  // How many packs it would take; not to be rounded up to more than a map can have.
  static double packs_of(const Region& region);

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
Strided<T>::Strided(const Region& region, T* to, Rounding<T> rounding)
    : data(to),
      first_index(region.first_index),
      width(1),
      stride(0),
      packs(1),
      dims(0),
      row(-1),
      rounding(rounding),
      dim{} {
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
// blocks_of_pack. 8-bit values have strided maps only, which keeps the binary small.
template <class T, int Blocks, class F>
void for_each_map(Region region, T* data, Rounding<T> rounding, const F& f) {
  using Run = Contiguous<T, Blocks>;
  bool contiguous = false;
  if constexpr (sizeof(T) > 1) {
    contiguous = region.dims == 1 && region.strides[0] == 1 && region.index_strides[0] == 1;
  }
  if (contiguous) {
    constexpr uint64_t per_segment = uint64_t{elements_per_block<ArithmeticFor<T>>} << 32;
    for (int64_t n = region.sizes[0]; n > 0;) {
      const uint64_t room = per_segment - region.first_index % per_segment;
      int64_t part = n < Run::most_elements ? n : Run::most_elements;
      if (static_cast<uint64_t>(part) > room) part = static_cast<int64_t>(room);
      if constexpr (sizeof(T) > 1) f(Run(data, region.first_index, part, rounding));
      data += part;
      region.first_index += static_cast<uint64_t>(part);
      n -= part;
    }
  } else if (Strided<T>::packs_of(region) < 0x1p31) {
    f(Strided<T>(region, data, rounding));
  } else {  // the two halves of the longest dimension
    int d = 0;
    for (int i = 1; i < region.dims; ++i) d = region.sizes[i] > region.sizes[d] ? i : d;
    Region half = region;
    half.sizes[d] = region.sizes[d] / 2;
    for_each_map<T, Blocks>(half, data, rounding, f);
    data += half.sizes[d] * region.strides[d];
    region.first_index += static_cast<uint64_t>(half.sizes[d] * region.index_strides[d]);
    region.sizes[d] -= half.sizes[d];
    for_each_map<T, Blocks>(region, data, rounding, f);
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

}  // namespace fastinit::cuda
