// Haar distributed orthogonal matrices without a factorisation (contract C9).
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/regions.h"

namespace fastinit {

// Fills self, or the part of a whole that it is, with gain times a (semi-)orthogonal or unitary matrix: the first dimension
// has its rows, all others its columns. Or with a batch of them, one for each index of the first dimension, the others being
// those of a matrix.
void orthogonal(const at::Tensor& self, double gain, const Draw& draw, const Part& part, bool batch);

// Whether products are torch's on the CPU too, as they are on other devices; returns what held before. For tests.
bool multiply_by_torch(bool always);

}  // namespace fastinit
