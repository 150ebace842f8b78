// Haar distributed orthogonal matrices without a factorisation (contract C9).
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/regions.h"

namespace fastinit {

// Fills self, seen as a matrix of size(0) rows, with gain times a (semi-)orthogonal or unitary matrix. R is the arithmetic
// that its reflectors are drawn in.
template <class R>
void orthogonal(const at::Tensor& self, double gain, const Draw& draw);

// Whether products are torch's on the CPU too, as they are on other devices; returns what held before. For tests.
bool multiply_by_torch(bool always);

}  // namespace fastinit
