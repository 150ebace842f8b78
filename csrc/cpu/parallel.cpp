#include "cpu/parallel.h"

#include <ATen/Parallel.h>
#include <pthread.h>
#include <torch/csrc/stable/c/shim.h>

#include <atomic>
#include <stdexcept>
#include <thread>

namespace fastinit::cpu {
namespace {

// A process that forks keeps one of its threads. OpenMP does not notice, and would wait for its others for ever. But
// they belong to the thread that made them: in the child, a new one makes new ones.
std::atomic<bool> forked{false};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

int threads() { return at::get_num_threads(); }

void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                  void* context) {
  if (forked && at::in_parallel_region()) return work(begin, end, context);
  int status = 0;
  const auto run = [&] { status = torch_parallel_for(begin, end, grain, work, context); };
  if (forked) {
    std::thread(run).join();
  } else {
    run();
  }
  if (status != 0) throw std::runtime_error("fastinit: libtorch's parallel_for failed");
}

}  // namespace fastinit::cpu
