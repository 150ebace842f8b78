#include "cpu/parallel.h"

#include <ATen/Parallel.h>
#include <c10/core/thread_pool.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

namespace fastinit::cpu {
namespace {

// Work in parts, of which whoever comes takes the next one.
//
// Nobody waits for a thread that has not come. libtorch's parallel_for waits at its end for all of its threads, and one
// whose core is taken by another program may sleep for some 10 ms: a hundred times as long as a matrix takes to fill.
struct Work {
  int64_t begin, end, step;
  void (*work)(int64_t, int64_t, void*);
  void* context;
  std::atomic<int64_t> taken{0}, finished{0};

  int64_t parts() const { return (end - begin + step - 1) / step; }

  void help() {
    for (int64_t part; (part = taken.fetch_add(1, std::memory_order_relaxed)) < parts();) {
      const int64_t from = begin + part * step;
      work(from, std::min(from + step, end), context);
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == parts()) finished.notify_one();
    }
  }
  void wait() {
    for (int64_t now; (now = finished.load(std::memory_order_acquire)) < parts();) finished.wait(now);
  }
};

// Never destroyed: a fill may outlast the interpreter. A child process has none of its parent's threads.
std::atomic<c10::ThreadPool*> shared_pool{nullptr};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { shared_pool = nullptr; });

c10::ThreadPool& pool() {
  if (c10::ThreadPool* const there = shared_pool.load(std::memory_order_acquire)) return *there;
  const unsigned helpers = std::max(2u, std::thread::hardware_concurrency()) - 1;
  auto made = std::make_unique<c10::ThreadPool>(static_cast<int>(helpers));
  c10::ThreadPool* nobodys = nullptr;
  return shared_pool.compare_exchange_strong(nobodys, made.get()) ? *made.release() : *nobodys;
}

// Parts a thread: the more, the less a slow one holds up the others, and the less each of them is worth taking.
constexpr int64_t parts_per_thread = 8;

}  // namespace

int threads() { return at::get_num_threads(); }

void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                  void* context) {
  const int64_t most = std::min<int64_t>(threads(), (end - begin + grain - 1) / grain);
  if (most <= 1 || at::in_parallel_region()) return work(begin, end, context);
  const int64_t step = std::max(grain, (end - begin) / (most * parts_per_thread));
  const auto shared = std::make_shared<Work>(begin, end, step, work, context);
  for (int64_t helper = 1; helper < most; ++helper) pool().run([shared] { shared->help(); });
  shared->help();
  shared->wait();
}

}  // namespace fastinit::cpu
