// The GPU's loops (csrc/cuda/*.h) on the CPU: tests/contract/test_cuda_on_host.py compiles this and compares what it
// writes with the CPU's fills. Thread after thread, warp after warp; what the GPU does at the same time, in turn.
#include <string>

#include "cuda/elementwise.h"
#include "cuda/region.h"
#include "cuda/rejection.h"
#include "cuda/sparse.h"

using namespace fastinit;
using namespace fastinit::cuda;

namespace {

// Few enough that each thread has several tiles to do.
constexpr uint32_t thread_blocks = 2;

struct Warp {
  uint32_t first;

  template <class V>
  struct PerLane {
    V v[lanes];
    V& operator[](uint32_t lane) { return v[lane]; }
  };
  template <class F>
  void each(const F& f) const {
    for (uint32_t lane = 0; lane < lanes; ++lane) f(lane);
  }
  uint32_t read(const uint32_t& x) const { return x; }
};

template <class Map, class D>
void fill_elementwise(const Map& map, const Keys& key, const D& d) {
  if (map.packs % 2 == 0) {  // one a thread
    for (uint32_t number = 0; number < map.packs + lanes; ++number) fill_pack(map, number, key, d);
    return;
  }
  for (uint32_t number = 0; number < tiles(map); ++number) {
    for (uint32_t thread = 0; thread < threads; ++thread) cuda::fill_elementwise(map, number, thread, key, d);
  }
}
template <class Map, class D>
void fill_map(const Map& map, const Keys& key, const D& d) {
  fill_elementwise(map, key, d);
}

template <Method P, class Map, class R>
void fill_by_rejection(const Map& map, const Keys& key, const TruncatedNormal<R>& d) {
  for (uint32_t block = 0; block < thread_blocks; ++block) {
    for (uint32_t first = 0; first < threads; first += lanes) {
      Warp warp{first};
      Stack<R> stack;
      cuda::fill_by_rejection<P>(map, block, thread_blocks, key, d, warp, stack);
    }
  }
}
template <class Map, class R>
void fill_map(const Map& map, const Keys& key, const TruncatedNormal<R>& d) {
  switch (d.method) {
    case Method::half_normal:
      return fill_by_rejection<Method::half_normal>(map, key, d);
    case Method::quantile:
      return;
    case Method::normal:
      return fill_by_rejection<Method::normal>(map, key, d);
    case Method::uniform:
      return fill_by_rejection<Method::uniform>(map, key, d);
    case Method::exponential:
      return fill_by_rejection<Method::exponential>(map, key, d);
  }
}

template <class Map, class R>
void fill_map(const Map& map, const Keys& key, const Sparse<R>& d) {
  const Walk walk = walk_of(map, d, thread_blocks * threads_for_sparse);
  for (uint32_t thread = 0; thread < walk.threads(); ++thread) {
    typename ZeroColumns<R>::Word words[ZeroColumns<R>::words_of_column];
    fill_sparse(map, walk, thread, key, d, ZeroColumns<R>(d, key, words, 1));
  }
}

template <class T, class D>
void fill(const Region& region, void* data, DType dtype, Key key, const D& d) {
  const Keys keys(key, [](uint32_t x) { return x; });
  with_cheapest(d, [&](const auto& cheapest) {
    for_each_map<T, blocks_of_pack<T, D>>(region, static_cast<T*>(data), Rounding<T>(dtype),
                                          [&](const auto& map) { fill_map(map, keys, cheapest); });
  });
}

template <class T, class R>
void fill(const char* op, const double* p, const Region& region, void* data, DType dtype, Key key) {
  switch (op[0]) {
    case 'u':
      return fill<T>(region, data, dtype, key, Uniform<R>::make(p[0], p[1], dtype));
    case 'n':
      return fill<T>(region, data, dtype, key, Normal<R>{static_cast<R>(p[0]), static_cast<R>(p[1])});
    case 't':
      return fill<T>(region, data, dtype, key, TruncatedNormal<R>::make(p[0], p[1], p[2], p[3], dtype));
    case 's': {  // std, rows, columns, zeros, parts
      const auto count = [&](int i) { return static_cast<uint64_t>(p[i]); };
      return fill<T>(region, data, dtype, key,
                     Sparse<R>::make(p[0], count(1), count(2), count(3), static_cast<int>(p[4])));
    }
  }
}

}  // namespace

// `numbers`: sizes, strides and index strides, `dims` of each.
extern "C" void fastinit_cuda_on_host(const char* op, const double* parameters, const char* dtype, int dims,
                                      const int64_t* numbers, uint64_t first_index, uint64_t key,
                                      void* data) {
  Region region{};
  region.dims = dims;
  for (int d = 0; d < dims; ++d) {
    region.sizes[d] = numbers[d];
    region.strides[d] = numbers[dims + d];
    region.index_strides[d] = numbers[2 * dims + d];
  }
  region.first_index = first_index;
  const std::string type(dtype);
  if (type == "float64") {
    fill<double, double>(op, parameters, region, data, DType::f64, {key});
  } else if (type == "float32") {
    fill<float, float>(op, parameters, region, data, DType::f32, {key});
  } else if (type == "float16") {
    fill<Half, float>(op, parameters, region, data, DType::f16, {key});
  } else if (type == "bfloat16") {
    fill<BFloat16, float>(op, parameters, region, data, DType::bf16, {key});
  } else {
    const DType dtype = type == "float8_e4m3fn"     ? DType::f8_e4m3fn
                        : type == "float8_e4m3fnuz" ? DType::f8_e4m3fnuz
                        : type == "float8_e5m2"     ? DType::f8_e5m2
                                                    : DType::f8_e5m2fnuz;
    fill<Float8, float>(op, parameters, region, data, dtype, {key});
  }
}
