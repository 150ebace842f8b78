// Launches the loops of this folder: thread blocks that each take their share of a map, more of them for larger maps.
#include "cuda/fill.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "cuda/elementwise.h"
#include "cuda/region.h"
#include "cuda/rejection.h"
#include "cuda/sparse.h"

namespace fastinit::cuda {
namespace {

// ---- Kernels --------------------------------------------------------------------------------------------------------

// The keys are the same for all threads. A reduction over the warp tells the compiler so: it keeps them in registers
// that a warp's threads share, outside of the loops.
__device__ __forceinline__ Keys take(Key key, const uint64_t* device_key) {
  if (device_key != nullptr) key.bits = *device_key;
  return Keys(key, [](uint32_t x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_or_sync(0xFFFFFFFFu, x);
#else
    return x;
#endif
  });
}

// A warp as fill_by_rejection sees it: the lanes are there anyway, and have to be waited for.
struct Warp {
  uint32_t first;  // the number of lane 0 in the thread block

  template <class V>
  struct PerLane {
    V v;
    __device__ __forceinline__ V& operator[](uint32_t) { return v; }
  };
  template <class F>
  __device__ __forceinline__ void each(const F& f) const {
    f(threadIdx.x % lanes);
    __syncwarp();
  }
  __device__ __forceinline__ uint32_t read(const uint32_t& x) const {
    const uint32_t value = x;
    __syncwarp();
    return value;
  }
};

template <class Map, class D>
__global__ void __launch_bounds__(threads, thread_blocks_at_once<D>)
    elementwise(const __grid_constant__ Map map, Key host_key, const uint64_t* device_key,
                const D distribution) {
  const Keys key = take(host_key, device_key);
  if (gridDim.x > tiles(map)) {
    return fill_pack(map, blockIdx.x * threads + threadIdx.x, key, distribution);
  }
  for (uint32_t number = blockIdx.x; number < tiles(map); number += gridDim.x) {
    fill_elementwise(map, number, threadIdx.x, key, distribution);
  }
}

template <Method P, class Map, class D>
__global__ void __launch_bounds__(threads) rejection(const __grid_constant__ Map map, Key host_key,
                                                     const uint64_t* device_key, const D distribution) {
  __shared__ Stack<typename D::Arithmetic> stacks[threads / lanes];
  const Keys key = take(host_key, device_key);
  Warp warp{threadIdx.x / lanes * lanes};
  fill_by_rejection<P>(map, blockIdx.x, gridDim.x, key, distribution, warp, stacks[threadIdx.x / lanes]);
}

template <class Map, class R>
__global__ void __launch_bounds__(threads_for_sparse, thread_blocks_at_once_for_sparse)
    sparse(const __grid_constant__ Map map, Key host_key, const uint64_t* device_key,
           const Sparse<R> distribution, const Walk walk) {
  using Columns = ZeroColumns<R>;
  __shared__ typename Columns::Word words[Columns::words_of_column][threads_for_sparse];
  const Keys key = take(host_key, device_key);
  const uint32_t thread = blockIdx.x * threads_for_sparse + threadIdx.x;
  if (thread >= walk.threads()) return;
  fill_sparse(map, walk, thread, key, distribution,
              Columns(distribution, key, &words[0][threadIdx.x], threads_for_sparse));
}

// ---- Launches -------------------------------------------------------------------------------------------------------

// Makes the queue's device the current one. It is already, where this library and torch's agree on what that means.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = device;
    if (before_ != device_) cudaSetDevice(device_);
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int device_, before_ = 0;
};

// How many tiles a thread block takes where there are enough for more blocks than run at a time. With fewer blocks, all of them
// at once, the warps that the schedulers prefer are done long before the others, and leave their multiprocessor half empty;
// with more, what each does before and after its loop tells. A rejecting one has more to do there. Measured (docs/gpu.md).
constexpr uint32_t tiles_of_elementwise = 8, tiles_of_rejection = 64;

// One fill's way to the device.
template <class D>
class Launcher {
 public:
  Launcher(const char* op, const D& distribution, Key key, const uint64_t* device_key, Queue queue)
      : op_(op),
        distribution_(distribution),
        key_(key),
        device_key_(device_key),
        queue_(queue),
        on_device_(queue.device) {}

  // For a map of few packs, one a thread: more threads than tiles have, and so done sooner.
  template <class Map>
  void launch_elementwise(const Map& map) const {
    constexpr auto kernel = &elementwise<Map, D>;
    const uint32_t blocks = (map.packs + threads - 1) / threads;
    if (blocks > resident_blocks<kernel, threads>()) return launch_tiles<kernel>(map, tiles_of_elementwise);
    launch<kernel, threads>(map, blocks);
  }
  template <auto kernel, class Map>
  void launch_tiles(const Map& map, uint32_t tiles_of_block) const {
    const uint32_t all = tiles(map), at_once = resident_blocks<kernel, threads>();
    launch<kernel, threads>(map, all <= at_once ? all : std::max(at_once, all / tiles_of_block));
  }

  // `rest`: what the kernel takes besides map, keys and distribution.
  template <auto kernel, uint32_t threads, class Map, class... Rest>
  void launch(const Map& map, uint32_t blocks, Rest... rest) const {
    kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(queue_.stream)>>>(map, key_, device_key_,
                                                                             distribution_, rest...);
    check(cudaGetLastError());
  }

  // How many thread blocks of `kernel` the device holds at a time; asked once.
  template <auto kernel, uint32_t threads>
  uint32_t resident_blocks() const {
    constexpr int devices = 64;
    static std::atomic<uint32_t> known[devices];
    const bool keep = queue_.device < devices;
    if (keep) {
      if (const uint32_t blocks = known[queue_.device].load(std::memory_order_relaxed)) return blocks;
    }
    // The driver divides what is both cache and shared memory as it sees fit, unless it is asked; the occupancy is
    // what is possible, and not what such a division leaves.
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel));
    if (attributes.sharedSizeBytes > 0) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared));
    }
    int per_processor = 0, processors = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, threads, 0));
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, queue_.device));
    const uint32_t blocks = static_cast<uint32_t>(per_processor * processors);
    if (keep) known[queue_.device].store(blocks, std::memory_order_relaxed);
    return blocks;
  }

 private:
  void check(cudaError_t status) const {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // or it would be taken for that of the next launch
    std::string message = std::string("fastinit.") + op_ + ": CUDA: " + cudaGetErrorString(status);
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
        status == cudaErrorUnsupportedPtxVersion) {
      int major = 0, minor = 0;
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, queue_.device);
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, queue_.device);
      const std::string capability = std::to_string(major) + "." + std::to_string(minor);
      message += "; this build of fastinit has no code for a GPU of compute capability " + capability +
                 " (rebuild it with FASTINIT_CUDA_ARCHS=" + capability + ")";
    }
    throw std::runtime_error(message);
  }

  const char* op_;
  const D& distribution_;
  Key key_;
  const uint64_t* device_key_;
  Queue queue_;
  OnDevice on_device_;
};

template <class Map, class D>
void fill_map(const Map& map, const D&, const Launcher<D>& launcher) {
  launcher.launch_elementwise(map);
}
template <class Map, class R>
void fill_map(const Map& map, const TruncatedNormal<R>& d, const Launcher<TruncatedNormal<R>>& launcher) {
  using D = TruncatedNormal<R>;
  switch (d.method) {
    case Method::normal:
      return launcher.template launch_tiles<&rejection<Method::normal, Map, D>>(map, tiles_of_rejection);
    case Method::half_normal:
      return launcher.template launch_tiles<&rejection<Method::half_normal, Map, D>>(map, tiles_of_rejection);
    case Method::uniform:
      return launcher.template launch_tiles<&rejection<Method::uniform, Map, D>>(map, tiles_of_rejection);
    case Method::exponential:
      return launcher.template launch_tiles<&rejection<Method::exponential, Map, D>>(map, tiles_of_rejection);
    case Method::quantile:
      return;  // with_cheapest has made something else of it
  }
}
template <class Map, class R>
void fill_map(const Map& map, const Sparse<R>& d, const Launcher<Sparse<R>>& launcher) {
  constexpr uint32_t threads = threads_for_sparse;
  constexpr auto kernel = &sparse<Map, R>;
  const Walk walk = walk_of(map, d, launcher.template resident_blocks<kernel, threads>() * threads);
  launcher.template launch<kernel, threads>(map, (walk.threads() + threads - 1) / threads, walk);
}

}  // namespace

bool capturing(Queue queue) {
  const OnDevice on_device(queue.device);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(queue.stream), &status);
  if (error != cudaSuccess) cudaGetLastError();  // reported here, and nowhere else
  // The legacy stream is no part of a capture, but may not be used during one.
  return error == cudaErrorStreamCaptureImplicit || status != cudaStreamCaptureStatusNone;
}

void fill(const Fill& f, const uint64_t* device_key, Queue queue) {
  if (f.region.elements() == 0) return;
  std::visit(
      [&](const auto& distribution) {
        const char* const op = distribution.op;
        with_cheapest(distribution, [&](const auto& d) {
          using D = std::remove_cvref_t<decltype(d)>;
          const Launcher<D> launcher(op, d, f.key, device_key, queue);
          with_type<typename D::Arithmetic>(f.dtype, [&](auto t) {
            using T = decltype(t);
            constexpr int blocks = blocks_of_pack<T, D>;
            for_each_map<T, blocks>(f.region, static_cast<T*>(f.data), Rounding<T>(f.dtype),
                                    [&](const auto& map) { fill_map(map, d, launcher); });
          });
        });
      },
      f.distribution);
}

}  // namespace fastinit::cuda
