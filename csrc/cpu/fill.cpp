#include "cpu/fill.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastinit::cpu {
namespace {

bool runs_here(Capability capability) {
#if defined(__x86_64__)
  // Every processor with AVX2 has F16C, whose name clang 14 does not know.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  return capability == Capability::baseline || (capability == Capability::avx2 ? avx2 : avx512);
#else
  return capability == Capability::baseline;
#endif
}

Capability choose() {
  const std::vector<Capability> choices = available();
  std::string list;
  for (Capability c : choices) list += (list.empty() ? "" : ", ") + std::string(name(c));
  if (const char* wanted = std::getenv("FASTINIT_CPU_CAPABILITY"); wanted != nullptr && *wanted != '\0') {
    for (Capability c : choices) {
      if (std::string(wanted) == name(c)) return c;
    }
    throw std::invalid_argument("FASTINIT_CPU_CAPABILITY=" + std::string(wanted) +
                                " cannot be had; this build on this processor offers: " + list);
  }
  Capability best = choices.back();
  if (const char* limit = std::getenv("ATEN_CPU_CAPABILITY")) {
    for (Capability c : {Capability::baseline, Capability::avx2}) {
      if (std::string(limit) == name(c)) best = std::min(best, c);
    }
  }
  return best;
}

std::atomic<int>& active_storage() {
  static std::atomic<int> storage{static_cast<int>(choose())};
  return storage;
}

FillPart fill_part(const Fill& f) {
  const size_t alternative = f.distribution.index();
  switch (active()) {
#if defined(__x86_64__)
    case Capability::avx512:
      return avx512::fill_part(alternative, f.dtype);
    case Capability::avx2:
      return avx2::fill_part(alternative, f.dtype);
#endif
    default:
      return baseline::fill_part(alternative, f.dtype);
  }
}

// Threads get whole units of this many elements, so that their parts begin on blocks and cache lines.
constexpr int64_t unit = 4096;
// Fewer elements than this a thread do not pay for waking it.
constexpr int64_t units_per_thread = 4;
// From this size on the tensor leaves the caches anyway, and stores that bypass them save reading it in.
constexpr int64_t streaming_bytes = int64_t{4} << 20;

// Memory that nobody has touched yet costs more than the values: the system hands it out page by page while it is
// filled. Asked to, it hands out 2 MiB at a time, in less than half of the time (docs/cpu.md).
constexpr int64_t huge_page = int64_t{2} << 20, asking_bytes = int64_t{16} << 20;
// Asking may split a mapping in three, and a process has no more than 65,530 of them.
constexpr int most_askings = 1 << 14;

void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static std::atomic<int> askings{0};
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + huge_page - 1) / huge_page * huge_page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / huge_page * huge_page;
  void* const memory = reinterpret_cast<void*>(begin);
  unsigned char there = 1;
  if (bytes < asking_bytes || mincore(memory, 1, &there) != 0 || (there & 1) != 0) return;
  if (askings.fetch_add(1, std::memory_order_relaxed) < most_askings) {
    madvise(memory, end - begin, MADV_HUGEPAGE);  // a refusal does no harm
  } else {
    askings.store(most_askings, std::memory_order_relaxed);
  }
#endif
}

}  // namespace

const char* name(Capability capability) {
  return capability == Capability::avx512 ? "avx512" : capability == Capability::avx2 ? "avx2" : "default";
}

std::vector<Capability> available() {
  std::vector<Capability> result;
  for (Capability c : {Capability::baseline, Capability::avx2, Capability::avx512}) {
    if (runs_here(c)) result.push_back(c);
  }
  return result;
}

Capability active() { return static_cast<Capability>(active_storage().load(std::memory_order_relaxed)); }

Capability set_active(Capability capability) {
  return static_cast<Capability>(active_storage().exchange(static_cast<int>(capability)));
}

void fill(const Fill& f) {
  const int64_t elements = f.region.elements();
  if (elements == 0) return;
  const int64_t element_size = f.dtype == DType::f64 ? 8 : f.dtype == DType::f32 ? 4 : 2;
  struct Context {
    Job job;
    FillPart fill_part;
    int64_t elements;
  };
  const void* const distribution =
      std::visit([](const auto& d) { return static_cast<const void*>(&d); }, f.distribution);
  Context context{{f.region, f.data, f.key, distribution, elements * element_size >= streaming_bytes},
                  fill_part(f),
                  elements};
  const auto part = [](int64_t begin, int64_t end, void* p) {
    const Context& c = *static_cast<const Context*>(p);
    c.fill_part(c.job, begin * unit, std::min(end * unit, c.elements));
  };
  if (f.region.dims == 1 && f.region.strides[0] == 1) ask_for_huge_pages(f.data, elements * element_size);
  const int64_t units = (elements + unit - 1) / unit;
  if (units <= units_per_thread) return part(0, units, &context);
  parallel_for(0, units, units_per_thread, part, &context);
}

}  // namespace fastinit::cpu
