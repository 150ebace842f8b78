#include "cpu/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastinit::cpu {
namespace {

std::atomic<int (*)()> host_threads{[] { return 1; }}, host_in_parallel{[] { return 0; }};

// For a little while: what is waited for mostly comes soon, and to be awake then saves the time of waking up.
template <class F>
void spin_until(const F& done) {
  for (int i = 0; i < 1 << 12 && !done(); ++i) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // takes some time, as pause does; yield takes none on most processors
#endif
  }
}

// Whether this thread does a part of some work: what is to be done within it, it does by itself.
thread_local bool at_work = false;

// Work in parts, of which whoever comes takes the next one.
struct Work {
  int64_t begin, end, step;
  void (*work)(int64_t, int64_t, void*);
  void* context;
  std::atomic<int64_t> places;  // for helpers
  std::atomic<int64_t> taken{0}, finished{0};

  int64_t parts() const { return (end - begin + step - 1) / step; }

  void help() {
    at_work = true;
    for (int64_t part; (part = taken.fetch_add(1, std::memory_order_relaxed)) < parts();) {
      const int64_t from = begin + part * step;
      work(from, std::min(from + step, end), context);
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == parts()) finished.notify_one();
    }
    at_work = false;
  }
  void wait() {
    const auto done = [this] { return finished.load(std::memory_order_acquire) == parts(); };
    spin_until(done);
    for (int64_t now; (now = finished.load(std::memory_order_acquire)) < parts();) finished.wait(now);
  }
};

// Threads that help with the latest work.
//
// Why not libtorch's: its parallel_for waits at its end for all of its threads, and one whose core is taken by another
// program may sleep for some 10 ms, a hundred times as long as a matrix takes to fill. Here nobody waits for a thread that
// has not come.
class Pool {
 public:
  void offer(const std::shared_ptr<Work>& work) {
    const int64_t wanted = work->places;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      try {
        for (; size_ < wanted; ++size_) {
          std::thread([this] { serve(); }).detach();
        }
      } catch (const std::system_error&) {  // the system gives no more threads: those that there are will do
      }
      latest_ = work;
    }
    number_.fetch_add(1, std::memory_order_release);
    for (int64_t i = 0; i < wanted; ++i) number_.notify_one();  // nobody is woken in vain
  }

 private:
  std::shared_ptr<Work> latest() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return latest_;
  }

  void serve() {
    for (uint32_t seen = 0;;) {
      spin_until([&] { return number_.load(std::memory_order_relaxed) != seen; });
      number_.wait(seen, std::memory_order_acquire);
      seen = number_.load(std::memory_order_acquire);
      const std::shared_ptr<Work> work = latest();
      if (work->places.fetch_sub(1, std::memory_order_relaxed) > 0) work->help();
    }
  }

  std::mutex mutex_;  // of the next two
  std::shared_ptr<Work> latest_;
  int64_t size_ = 0;                 // threads
  std::atomic<uint32_t> number_{0};  // of the latest work
};

// Never destroyed: a fill may outlast the interpreter. A child process has none of its parent's threads.
std::atomic<Pool*> shared_pool{nullptr};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { shared_pool = nullptr; });

Pool& pool() {
  if (Pool* const there = shared_pool.load(std::memory_order_acquire)) return *there;
  auto made = std::make_unique<Pool>();
  Pool* nobodys = nullptr;
  return shared_pool.compare_exchange_strong(nobodys, made.get()) ? *made.release() : *nobodys;
}

}  // namespace

void set_host(const Host& host) {
  host_threads.store(host.threads, std::memory_order_relaxed);
  host_in_parallel.store(host.in_parallel, std::memory_order_relaxed);
}

int threads() { return host_threads.load(std::memory_order_relaxed)(); }

void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                  void* context) {
  const int64_t most = std::min<int64_t>(threads(), (end - begin + grain - 1) / grain);
  if (most <= 1 || at_work || host_in_parallel.load(std::memory_order_relaxed)() != 0)
    return work(begin, end, context);
  const std::shared_ptr<Work> shared(new Work{begin, end, grain, work, context, most - 1});
  pool().offer(shared);
  shared->help();
  shared->wait();
}

}  // namespace fastinit::cpu
