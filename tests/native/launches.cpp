// A CUDA runtime that only takes notes: tests/build/test_cuda_build.py links fill.cu with it, to see without a GPU what the
// host asks for and launches. Four devices of 100 multiprocessors, each with room for four thread blocks of any kernel.
#include <cstdint>
#include <map>
#include <string>

#include "core/fill.h"
#include "cuda/fill.h"

namespace {

using Status = int;  // cudaError_t
constexpr Status success = 0, failure = 999;

std::string noted, failing;
Status last_error = success;
int current_device = 0;
std::map<const void*, bool> has_shared_memory;

Status note(const std::string& what, const std::string& more = "") {
  noted += what + more + " ";
  if (failing != what) return success;
  failing.clear();
  return last_error = failure;
}

struct Dim3 {
  unsigned x, y, z;
};
struct Configuration {
  Dim3 grid, block;
  size_t shared;
  void* stream;
} configuration;

}  // namespace

extern "C" {

// What nvcc's host code calls.
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*, void*, void*,
                            void*, int*) {
  const std::string kernel(name);
  has_shared_memory[function] =
      kernel.find("rejection") != std::string::npos || kernel.find("6sparse") != std::string::npos;
}
Status __cudaGetKernel(void** kernel, const void* function) {
  *kernel = const_cast<void*>(function);
  return success;
}
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
Status __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void** stream) {
  *grid = configuration.grid, *block = configuration.block;
  *shared = configuration.shared, *stream = configuration.stream;
  return success;
}
Status __cudaLaunchKernel(void*, Dim3 grid, Dim3, void**, size_t, void*) {
  return note("launch", ":" + std::to_string(grid.x));
}
Status cudaLaunchKernel(const void*, Dim3 grid, Dim3, void**, size_t, void*) {
  return note("launch", ":" + std::to_string(grid.x));
}

// What fill.cu calls.
Status cudaGetLastError() {
  const Status last = last_error;
  last_error = success;
  return last;
}
const char* cudaGetErrorString(Status) { return "it failed"; }
Status cudaGetDevice(int* device) {
  *device = current_device;
  return success;
}
Status cudaSetDevice(int device) {
  current_device = device;
  return note("device", ":" + std::to_string(device));
}
Status cudaDeviceGetAttribute(int* value, int, int) {
  *value = 100;
  return success;
}
Status cudaFuncGetAttributes(void* attributes, const void* kernel) {
  *static_cast<size_t*>(attributes) = has_shared_memory.at(kernel) ? 1024 : 0;  // sharedSizeBytes
  return success;
}
Status cudaFuncSetAttribute(const void*, int attribute, int value) {
  constexpr int carveout = 9;  // cudaFuncAttributePreferredSharedMemoryCarveout
  return attribute == carveout ? note("carveout", ":" + std::to_string(value)) : failure;
}
Status cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 4;
  return note("occupancy");
}
Status cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* kernel, int threads,
                                                              size_t shared, unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, shared);
}
Status cudaStreamIsCapturing(void*, int* status) {
  *status = 0;
  return success;
}

// What the test calls.
void fail_next(const char* what) { failing = what; }
void fill(const char* op, int64_t elements, int device) {
  using namespace fastinit;
  Fill f{};
  f.region.dims = 1;
  f.region.sizes[0] = elements;
  f.region.strides[0] = f.region.index_strides[0] = 1;
  f.dtype = DType::f32;
  switch (op[0]) {
    case 'u':
      f.distribution = Uniform<float>::make(0, 1, f.dtype);
      break;
    case 'n':
      f.distribution = Normal<float>{0, 1};
      break;
    case 't':
      f.distribution = TruncatedNormal<float>::make(0, 1, -HUGE_VAL, 1, f.dtype);
      break;
    case 's':
      f.distribution = Sparse<float>::make(1, 4096, static_cast<uint64_t>(elements) / 4096, 100, 1);
      break;
  }
  noted.clear();
  try {
    cuda::fill(f, nullptr, {device, nullptr});
  } catch (const std::exception& error) {
    std::string message = error.what();
    for (char& c : message) c = c == ' ' ? '_' : c;
    note("error:" + message);
  }
}
const char* notes() { return noted.c_str(); }
}
