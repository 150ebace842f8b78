// What is wrong with a call, found before anything is drawn or written.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "core/element.h"
#include "torch/keys.h"
#include "torch/regions.h"

namespace fastinit {

// Messages begin with the name of the function that was called: the op's own, unless a Caller lives in this thread.
class Caller {
 public:
  explicit Caller(const char* name);
  ~Caller();
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

 private:
  const char* outer_;
};
const char* title(const char* op);

#define FASTINIT_CHECK(CONDITION, OP, ...) TORCH_CHECK(CONDITION, "fastinit.", title(OP), ": ", __VA_ARGS__)
#define FASTINIT_CHECK_VALUE(CONDITION, OP, ...) \
  TORCH_CHECK_VALUE(CONDITION, "fastinit.", title(OP), ": ", __VA_ARGS__)

// The tensor may be written to, element by element: it is dense, its memory is there, no elements share it, and it is no
// inference tensor outside of inference mode.
void check_writable(const char* op, const at::Tensor& self);
// The same but for elements that share memory, which may all get one value.
void check_one_value_writable(const char* op, const at::Tensor& self);

// The part lies within its whole.
void check_part(const char* op, const at::Tensor& self, const Part& part);

// Whether two elements of a tensor with these sizes and strides share memory; nothing if that takes too long to find out.
std::optional<bool> shares_memory(at::IntArrayRef sizes, at::IntArrayRef strides);

// ---- Parameters --------------------------------------------------------------------------------------------------

// The largest number of the dtype.
double largest(DType dtype);

// A number that the arithmetic for this tensor can hold: float32, or float64 for float64.
void check_finite(const char* op, const at::Tensor& self, const char* name, double value);
void check_std(const char* op, const at::Tensor& self, double std);
// N(mean, std^2) gives no infinities.
void check_normal(const char* op, const at::Tensor& self, double mean, double std);
// [lower, upper], or [lower, upper) if `open`, is no empty interval, and the tensor's dtype has a number in it.
void check_interval(const char* op, const at::Tensor& self, double lower, double upper, bool open);

}  // namespace fastinit
