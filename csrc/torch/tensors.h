// From tensors and generators to what the kernels understand: regions, dtypes and keys.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <optional>

#include "core/fill.h"

namespace fastinit {

// The key of one fill: on the host, or in the memory of the tensor's device (a 0-dimensional int64 tensor),
// where it was drawn without the host waiting and is drawn anew by each replay of a captured graph.
struct TensorKey {
  Key host{0};
  at::Tensor device;
};

// Where a fill's key comes from: given directly, or drawn from a generator.
struct KeySource {
  std::optional<at::Generator> generator;
  std::optional<at::Tensor> key;

  // Takes exactly one key, under the generator's lock (contract C7). A CPU generator is good for every device; none
  // means the default generator of the tensor's device.
  TensorKey take(const at::Tensor& self) const;
};

// Throws if elements of `self` share memory, or if it is an inference tensor outside of inference mode.
void check_writable(const char* op, const at::Tensor& self);

// Throws what a fill of `self` would: dtype, layout, device, overlapping memory, generator.
void check_fillable(const char* op, const at::Tensor& self, const KeySource& source);

// The region of a whole tensor, dimensions merged where memory allows.
Region region_of(at::IntArrayRef sizes, at::IntArrayRef strides);

// Fills the tensor, whose real dtype is of the distribution's arithmetic, on its device.
void fill(const at::Tensor& self, const TensorKey& key, const Distribution& distribution,
          uint64_t first_index = 0);

// A fill of fewer elements is over so soon that the GIL is kept meanwhile.
constexpr int64_t long_fill = 1 << 14;

// While it lives, a tensor's memory on the CPU stays where it is: another thread that resizes the storage gets torch's
// error, "Trying to resize storage that is not resizable", and not the memory from under a fill.
class Pin {
 public:
  explicit Pin(const at::Tensor& tensor);
  ~Pin();
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

 private:
  c10::Storage storage_;
};

// The dtype of the elements, or of their real and imaginary parts.
DType dtype_of(const at::Tensor& self);

// True for float64 and complex128: the dtypes whose arithmetic is float64.
bool uses_double(const at::Tensor& self);

}  // namespace fastinit
