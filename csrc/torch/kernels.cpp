#include "torch/kernels.h"

#include <ATen/Parallel.h>

#include <new>
#include <stdexcept>

namespace fastinit::kernels {

void open() {
  static constexpr fastinit_host host{[] { return at::get_num_threads(); },
                                      [] { return static_cast<int>(at::in_parallel_region()); }};
  check(fastinit_open(FASTINIT_INTERFACE, &host));
}

bool have_cuda() { return *fastinit_build_info("cuda_architectures") != '\0'; }

void throw_error(int status) {
  switch (status) {
    case FASTINIT_INVALID:
      throw std::invalid_argument(fastinit_message());
    case FASTINIT_NO_MEMORY:
      throw std::bad_alloc();
    default:
      throw std::runtime_error(fastinit_message());
  }
}

}  // namespace fastinit::kernels
