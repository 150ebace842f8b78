// The table of ops: one struct for each, with all that is particular to it. The schemas, the checks, the kernels for every
// dispatch key, and the functions of the Python module are made from it.
//
// An op has
//   name, arguments    what the schema says; the arguments are numbers, and the struct's members in this order
//   complex            whether it fills complex tensors too
//   elementwise        whether a tensor of few elements is filled in no time
//   check              what is wrong with the arguments, or with the tensor's shape
//   fill               the fill
#pragma once

#include <array>
#include <cmath>
#include <tuple>

#include "torch/checks.h"
#include "torch/kernels.h"
#include "torch/orthogonal.h"
#include "torch/regions.h"

namespace fastinit {

// The variance of a complex number is shared by its two parts, as in torch.
inline double part_std(const at::Tensor& self, double std) {
  return self.is_complex() ? std / std::sqrt(2.0) : std;
}

struct UniformOp {
  static constexpr const char* name = "uniform_";
  static constexpr std::array arguments{"a", "b"};
  static constexpr bool complex = true, elementwise = true;
  double a, b;

  void check(const at::Tensor& self, const Part&) const {
    const double limit = largest(dtype_of(self));
    for (const auto& [argument, value] : {std::pair("a", a), std::pair("b", b)}) {
      FASTINIT_CHECK(std::abs(value) <= limit, name, argument, " is out of bounds for ", self.scalar_type(),
                     ": ", value);
    }
    check_interval(name, self, a, b, /*open=*/true);
    FASTINIT_CHECK(b - a <= limit, name, "b - a is out of bounds for ", self.scalar_type(), ": a=", a,
                   " and b=", b);
  }
  void fill(const at::Tensor& self, const Draw& draw, const Part& part) const {
    fastinit::fill(self, draw, kernels::uniform(a, b), part);
  }
};

struct NormalOp {
  static constexpr const char* name = "normal_";
  static constexpr std::array arguments{"mean", "std"};
  static constexpr bool complex = true, elementwise = true;
  double mean, std;

  void check(const at::Tensor& self, const Part&) const {
    check_normal(name, self, mean, part_std(self, std));
  }
  void fill(const at::Tensor& self, const Draw& draw, const Part& part) const {
    fastinit::fill(self, draw, kernels::normal(mean, part_std(self, std)), part);
  }
};

struct TruncatedNormalOp {
  static constexpr const char* name = "trunc_normal_";
  static constexpr std::array arguments{"mean", "std", "a", "b"};
  static constexpr bool complex = false, elementwise = true;
  double mean, std, a, b;

  void check(const at::Tensor& self, const Part&) const {
    check_finite(name, self, "mean", mean);
    check_std(name, self, std);
    for (const auto& [argument, value] : {std::pair("a", a), std::pair("b", b)}) {
      FASTINIT_CHECK(!std::isnan(value), name, argument, " must be a number, but is ", value);
    }
    check_interval(name, self, a, b, /*open=*/false);
  }
  void fill(const at::Tensor& self, const Draw& draw, const Part& part) const {
    // An infinite bound is none. A finite one keeps values finite, if the dtype cannot hold it too.
    const double limit = largest(dtype_of(self));
    const double lower = std::isinf(a) ? a : std::max(a, -limit),
                 upper = std::isinf(b) ? b : std::min(b, limit);
    fastinit::fill(self, draw, kernels::truncated_normal(mean, std, lower, upper), part);
  }
};

struct SparseOp {
  static constexpr const char* name = "sparse_";
  static constexpr std::array arguments{"sparsity", "std"};
  static constexpr bool complex = true, elementwise = true;
  double sparsity, std;

  void check(const at::Tensor& self, const Part& part) const {
    const at::IntArrayRef shape = part.shape_for(self);
    FASTINIT_CHECK_VALUE(shape.size() == 2, name, "tensor must have 2 dimensions, but has ", shape.size());
    FASTINIT_CHECK_VALUE(sparsity >= 0 && sparsity <= 1, name, "sparsity must lie in [0, 1], but is ",
                         sparsity);
    check_normal(name, self, 0, part_std(self, std));
    FASTINIT_CHECK(shape[0] < int64_t{1} << 42, name, "tensor must have fewer than 2^42 rows, but has ",
                   shape[0]);
  }
  void fill(const at::Tensor& self, const Draw& draw, const Part& part) const {
    const at::IntArrayRef shape = part.shape_for(self);
    const auto rows = static_cast<uint64_t>(shape[0]), columns = static_cast<uint64_t>(shape[1]);
    const auto zeros = static_cast<uint64_t>(std::ceil(sparsity * static_cast<double>(rows)));
    fastinit::fill(self, draw,
                   kernels::sparse(part_std(self, std), rows, columns, zeros, self.is_complex() ? 2 : 1),
                   part);
  }
};

inline void check_orthogonal(const char* op, const at::Tensor& self, const Part& part, size_t dims,
                             double gain) {
  const size_t given = part.shape_for(self).size();
  FASTINIT_CHECK_VALUE(given >= dims, op, "tensor must have ", dims, " or more dimensions, but has ", given);
  check_finite(op, self, "gain", gain);
  FASTINIT_CHECK(std::abs(gain) <= largest(dtype_of(self)), op, "gain is out of bounds for ",
                 self.scalar_type(), ": ", gain);
}

struct OrthogonalOp {
  static constexpr const char* name = "orthogonal_";
  static constexpr std::array arguments{"gain"};
  static constexpr bool complex = true, elementwise = false;
  double gain;

  void check(const at::Tensor& self, const Part& part) const { check_orthogonal(name, self, part, 2, gain); }
  void fill(const at::Tensor& self, const Draw& draw, const Part& part) const {
    orthogonal(self, gain, draw, part, /*batch=*/false);
  }
};

struct BatchedOrthogonalOp {
  static constexpr const char* name = "batched_orthogonal_";
  static constexpr std::array arguments{"gain"};
  static constexpr bool complex = true, elementwise = false;
  double gain;

  void check(const at::Tensor& self, const Part& part) const { check_orthogonal(name, self, part, 3, gain); }
  void fill(const at::Tensor& self, const Draw& draw, const Part& part) const {
    orthogonal(self, gain, draw, part, /*batch=*/true);
  }
};

using Ops = std::tuple<UniformOp, NormalOp, TruncatedNormalOp, SparseOp, OrthogonalOp, BatchedOrthogonalOp>;

// Calls f.operator()<Op>() for each op of the table.
template <class F>
void for_each_op(const F& f) {
  [&]<class... Op>(std::type_identity<std::tuple<Op...>>) {
    (f.template operator()<Op>(), ...);
  }(std::type_identity<Ops>());
}

}  // namespace fastinit
