// The GPU's loops: as cpu/kernels.cpp, a thread taking the place of the lanes.
#include "cuda/fill.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "core/distributions.h"

namespace fastinit::cuda {
namespace {

using Lanes = Portable<1>;
constexpr int threads = 256;

template <class T>
using ArithmeticFor = typename ArithmeticOf<T>::type;

template <class R>
FASTINIT_INLINE Pair<Bits<Lanes, R>> block_bits(uint64_t block, uint32_t draw, Purpose purpose, Key key) {
  using U64 = Lanes::U64;
  return bits_of<Lanes, R>(words_of<Lanes>(U64(block), U64(block >> 32), draw, purpose, key));
}

// The values of one block.
template <class R, class D>
__device__ Pair<Real<Lanes, R>> draw(uint64_t block, Key key, const D& d) {
  return d.template values<Lanes>(block_bits<R>(block, 0, Purpose::values, key));
}
template <class R>
__device__ Pair<Real<Lanes, R>> draw(uint64_t block, Key key, const TruncatedNormal<R>& d) {
  Pair<Real<Lanes, R>> x{};
  bool done[2 * (elements_per_block<R> / 2)] = {};
  for (uint32_t t = 0; t < max_attempts; ++t) {
    const auto bits = block_bits<R>(block, t, Purpose::values, key);
    const auto a = d.template attempt<Lanes, Proposal::normal>(bits, bits);
    bool all = true;
    for (int i = 0; i < elements_per_block<R> / 2; ++i) {
      if (!done[2 * i]) x.first.v[i] = a.values.first.v[i];
      if (!done[2 * i + 1]) x.second.v[i] = a.values.second.v[i];
      done[2 * i] |= a.accepted.first.v[i];
      done[2 * i + 1] |= a.accepted.second.v[i];
      all = all && done[2 * i] && done[2 * i + 1];
    }
    if (all) break;
  }
  return x;
}

template <class R>
__device__ Pair<Real<Lanes, R>> draw(uint64_t block, Key key, const Sparse<R>& d) {
  return draw<R>(block, key, d.normal);  // provisional
}

template <class T, class D>
__global__ void __launch_bounds__(threads) fill_contiguous(T* out, uint64_t first, int64_t n, Key key,
                                                           const uint64_t* device_key, D d) {
  using R = ArithmeticFor<T>;
  constexpr int per_block = elements_per_block<R>;
  if (device_key != nullptr) key.bits = *device_key;
  const uint64_t begin = first % per_block, end = begin + static_cast<uint64_t>(n), block = first / per_block;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * threads;
  for (uint64_t b = static_cast<uint64_t>(blockIdx.x) * threads + threadIdx.x; b * per_block < end; b += step) {
    const auto x = draw<R>(block + b, key, d);
    alignas(16) T values[per_block];
    store_pairs<false>(values, x.first, x.second);
    for (int i = 0; i < per_block; ++i) {
      const uint64_t at = b * per_block + i;
      if (at >= begin && at < end) out[at - begin] = values[i];
    }
  }
}

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("fastinit: ") + what + ": " + cudaGetErrorString(status));
  }
}

}  // namespace

template <class D>
void fill(const Fill<D>& f, const uint64_t* device_key, void* stream) {
  const Region& r = f.region;
  if (r.dims != 1 || r.strides[0] != 1) throw std::runtime_error("fastinit: strided CUDA fills are not written yet");
  const auto launch = [&](auto* out) {
    const int64_t n = r.sizes[0];
    const int64_t blocks = (n / 4 + threads) / threads + 1;
    fill_contiguous<<<static_cast<unsigned>(blocks < 65535 ? blocks : 65535), threads, 0,
                      static_cast<cudaStream_t>(stream)>>>(out, r.first_index, n, f.key, device_key, f.distribution);
    check(cudaGetLastError(), "launch");
  };
  if constexpr (std::is_same_v<typename D::Arithmetic, double>) {
    launch(static_cast<double*>(f.data));
  } else if (f.dtype == DType::f32) {
    launch(static_cast<float*>(f.data));
  } else if (f.dtype == DType::f16) {
    launch(static_cast<Half*>(f.data));
  } else {
    launch(static_cast<BFloat16*>(f.data));
  }
}

#define FASTINIT_INSTANTIATE(DISTRIBUTION) template void fill(const Fill<DISTRIBUTION>&, const uint64_t*, void*);
FASTINIT_FOR_EACH_DISTRIBUTION(FASTINIT_INSTANTIATE)

}  // namespace fastinit::cuda
