#include "orthogonal.h"

#include <ATen/ATen.h>

namespace fastinit {
void orthogonal(const at::Tensor&, double, const TensorKey&) { TORCH_CHECK(false, "placeholder"); }
}  // namespace fastinit
