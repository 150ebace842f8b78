// Parts of orthogonal matrices (contract C10), and the wholes that some of them are.
#pragma once

#include "torch/orthogonal_reflect.h"
#include "torch/regions.h"

namespace fastinit {

// Fills self, which has rows x (columns, in any number of dimensions), with gain times the Q of that Gaussian matrix.
void fill_whole(const at::Tensor& self, const Gaussian& gaussian, const Gain& gain);

// Fills a batch of matrices, of which that is the first one's.
void fill_batch(const at::Tensor& self, const Gaussian& gaussian, const Gain& gain);

// Fills a part of the whole matrix, or of a batch of which that is the first one's.
void fill_part(const at::Tensor& self, const Gaussian& gaussian, const Gain& gain, const Part& part,
               bool batch);

}  // namespace fastinit
