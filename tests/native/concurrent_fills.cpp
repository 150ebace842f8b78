// The CPU's loops and threads, used by many threads at the same time, for ThreadSanitizer. Without libtorch, which was
// compiled without it. Ends with 0 if all values are right; the sanitizer reports races.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/fill.h"
#include "cpu/parallel.h"
#include "cpu/product.h"
#include "cpu/target.h"

namespace {

using namespace fastinit;

constexpr int64_t rows = 331, columns = 367;  // odd, and enough for three threads
constexpr int times = 6;

std::atomic<int> failures{0};

Region matrix(int64_t stride, int64_t inner_stride, uint64_t first_index) {
  Region region{};
  region.dims = 2;
  region.sizes[0] = rows;
  region.sizes[1] = columns;
  region.strides[0] = stride;
  region.strides[1] = inner_stride;
  region.index_strides[0] = columns;
  region.index_strides[1] = 1;
  region.first_index = first_index;
  return region;
}

// Fills a matrix, by rows or transposed, again and again; the values must be those of the first time.
template <class T, class D>
void fill_again(const D& distribution, DType dtype, uint64_t key, bool transposed) {
  std::vector<T> first(rows * columns), again(rows * columns);
  const Region region = transposed ? matrix(1, rows, 0) : matrix(columns, 1, 0);
  cpu::fill(Fill{region, first.data(), dtype, Key{key}, distribution});
  for (int i = 0; i < times; ++i) {
    std::fill(again.begin(), again.end(), T{});
    cpu::fill(Fill{region, again.data(), dtype, Key{key}, distribution});
    if (std::memcmp(first.data(), again.data(), first.size() * sizeof(T)) != 0) ++failures;
  }
}

// Fills the two halves of one memory in two threads, the first one too far by `overlap` elements. (Halves of 4 MiB and
// more would be stored past the caches, which the sanitizer does not see.)
void fill_halves(int64_t half, int64_t overlap) {
  std::vector<float> whole(2 * half), halves(2 * half);
  const Normal<float> normal{0, 1};
  const auto part = [&](std::vector<float>& memory, int64_t begin, int64_t size) {
    Region region{};
    region.dims = 1;
    region.sizes[0] = size;
    region.strides[0] = region.index_strides[0] = 1;
    region.first_index = static_cast<uint64_t>(begin);
    cpu::fill(Fill{region, memory.data() + begin, DType::f32, Key{5}, normal});
  };
  part(whole, 0, 2 * half);
  std::thread other(part, std::ref(halves), half, half);
  part(halves, 0, half + overlap);
  other.join();
  if (std::memcmp(whole.data(), halves.data(), whole.size() * sizeof(float)) != 0) ++failures;
}

// Products as orthogonal_ makes them, each with a workspace of its own.
void multiply_again() {
  constexpr int64_t n = 150;
  std::vector<float> a(n * n), b(n * n), first(n * n), again(n * n);
  for (int64_t i = 0; i < n * n; ++i) {
    a[i] = static_cast<float>(i % 7 - 3);
    b[i] = static_cast<float>(i % 5 - 2);
  }
  const auto of = [](std::vector<float>& v) { return cpu::Matrix<float>{v.data(), n, n, n, 1}; };
  cpu::Multiplier<float> multiply;
  multiply(of(first), of(a), of(b), 1, false);
  for (int i = 0; i < times; ++i) {
    multiply(of(again), of(a), of(b), 1, false);
    if (first != again) ++failures;
  }
  if (cpu::lower_squares(of(a)) != cpu::lower_squares(of(a))) ++failures;
}

}  // namespace

// With an argument: one race, which the sanitizer must find.
int main(int argc, char**) {
  cpu::set_host({[] { return 3; }, [] { return 0; }});
  if (argc > 1) {
    fill_halves(8192, 1000);  // without helpers, whose comings and goings might happen to order the two
    return 0;
  }
  std::atomic<bool> done{false};
  std::thread chooser([&] {  // of instruction sets, in the middle of it all
    while (!done) {
      for (const cpu::Target c : cpu::available()) cpu::set_active(c);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> running;
  running.emplace_back(
      [] { fill_again<float>(Uniform<float>::make(-1, 2, DType::f32), DType::f32, 1, false); });
  running.emplace_back([] { fill_again<float>(Normal<float>{0, 1}, DType::f32, 2, true); });
  running.emplace_back([] { fill_again<double>(Normal<double>{0, 1}, DType::f64, 3, false); });
  running.emplace_back([] {
    fill_again<uint16_t>(TruncatedNormal<float>::make(0, 1, -2, 2, DType::bf16), DType::bf16, 4, true);
  });
  running.emplace_back(
      [] { fill_again<float>(Sparse<float>::make(1, rows, columns, rows / 3), DType::f32, 5, true); });
  running.emplace_back(fill_halves, int64_t{1} << 18, 0);
  running.emplace_back(multiply_again);
  for (std::thread& thread : running) thread.join();
  done = true;
  chooser.join();
  std::printf("%d failures\n", failures.load());
  return failures == 0 ? 0 : 1;
}
