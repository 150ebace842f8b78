#include "cpu/fill.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "cpu/fill_target.h"
#include "cpu/parallel.h"
#include "cpu/target.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastinit::cpu {
namespace {

constexpr FillPart (*fill_part[])(size_t alternative, DType dtype) = {
#define TARGET(NAMESPACE, ...) NAMESPACE::fill_part,
#include "cpu/targets.def"
};

// Threads get whole units of this many elements, so that their parts begin on blocks and cache lines.
constexpr int64_t unit = 4096;
// Fewer of them do not pay for another thread.
constexpr int64_t fewest_units = 4;
// Parts a thread: the more, the less a slow one holds up the others. But a part of sparse_ begins in the middle of a strip of
// columns, unless there are many, and finds the strip's zeros anew.
constexpr int64_t parts_per_thread = 4, parts_per_thread_of_few_strips = 1;
constexpr int64_t many_strips = int64_t{4} << 20;  // elements
// From this size on the tensor leaves the caches anyway, and stores that bypass them save reading it in. Elsewhere than on
// x86-64 there are no such stores, or none that the language reaches.
#if defined(__x86_64__)
constexpr int64_t streaming_bytes = int64_t{4} << 20;
#else
constexpr int64_t streaming_bytes = INT64_MAX;
#endif

// Memory that nobody has touched yet costs more than the values: the system hands it out page by page while it is
// filled. Asked to, it hands out 2 MiB at a time, in less than half of the time (docs/cpu.md).
constexpr int64_t huge_page = int64_t{2} << 20;
// Asking may split a mapping in three, and a process has no more than 65,530 of them.
constexpr int most_askings = 1 << 14;

// Of 2 MiB at least: those of models are many, and one huge page among them is still filled in half of the time.
void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static std::atomic<int> askings{0};
  // The huge pages that lie in the tensor whole.
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + huge_page - 1) / huge_page * huge_page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / huge_page * huge_page;
  if (bytes < huge_page || begin >= end) return;
  void* const memory = reinterpret_cast<void*>(begin);
  unsigned char there = 1;
  if (mincore(memory, 1, &there) != 0 || (there & 1) != 0) return;
  if (askings.fetch_add(1, std::memory_order_relaxed) < most_askings) {
    madvise(memory, end - begin, MADV_HUGEPAGE);  // a refusal does no harm
  } else {
    askings.store(most_askings, std::memory_order_relaxed);
  }
#endif
}

}  // namespace

void fill(const Fill& f, const Members& members) {
  const int64_t elements = f.region.elements(), all = elements * members.count;
  if (all == 0) return;
  const int64_t element_size = size_of(f.dtype);
  const int64_t units = (elements + unit - 1) / unit;  // of a member
  struct Context {
    const Fill& fill;
    const Members& members;
    FillPart fill_part;
    const void* distribution;
    int64_t elements, units, member_bytes;
    bool streaming;
  };
  const void* const distribution =
      std::visit([](const auto& d) { return static_cast<const void*>(&d); }, f.distribution);
  Context context{f,
                  members,
                  fill_part[static_cast<int>(active())](f.distribution.index(), f.dtype),
                  distribution,
                  elements,
                  units,
                  members.step * element_size,
                  all * element_size >= streaming_bytes};
  const auto part = [](int64_t begin, int64_t end, void* p) {
    const Context& c = *static_cast<const Context*>(p);
    for (int64_t m = begin / c.units, first = m * c.units; first < end; ++m, first += c.units) {
      const Job job{c.fill.region,  static_cast<char*>(c.fill.data) + m * c.member_bytes,
                    c.fill.dtype,   c.members.keys[m],
                    c.distribution, c.streaming};
      c.fill_part(job, std::max(begin - first, int64_t{0}) * unit,
                  std::min((end - first) * unit, c.elements));
    }
  };
  if (f.region.dims == 1 && f.region.strides[0] == 1 && (members.count == 1 || members.step == elements)) {
    ask_for_huge_pages(f.data, all * element_size);
  }
  const int64_t fewest = std::max(fewest_units, fewest_units * unit / elements),
                all_units = units * members.count;
  if (all_units <= fewest) return part(0, all_units, &context);
  const bool sparse = std::holds_alternative<Sparse<float>>(f.distribution) ||
                      std::holds_alternative<Sparse<double>>(f.distribution);
  const bool few_strips = sparse && all < many_strips;
  const int64_t parts = threads() * (few_strips ? parts_per_thread_of_few_strips : parts_per_thread);
  parallel_for(0, all_units, std::max(fewest, (all_units + parts - 1) / parts), part, &context);
}

void fill(const Fill& f) { fill(f, {&f.key, 1, 0}); }

}  // namespace fastinit::cpu
