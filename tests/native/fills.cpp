// fills TARGET THREADS: the CPU's fills without torch. Reads cases from the standard input, and writes the memory of
// each to the standard output, in which every byte that no fill has written is `untouched`. tests/support/native.py writes
// the cases. One of them is, in words:
//
//   op dtype key first_index bytes offset dims sizes... strides... index_strides... count parameters...
//
// `bytes` of memory, of which element `offset` is the region's first one. A dtype counts as DType does. The op "product" has
// no region: it multiplies two matrices of normal values, count parameters: rows, terms, columns.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cpu/fill.h"
#include "cpu/parallel.h"
#include "cpu/product.h"
#include "cpu/target.h"

namespace {

using namespace fastinit;

int wanted_threads = 1;

constexpr int untouched = 0xA5;

struct Free {
  void operator()(char* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using Memory = std::unique_ptr<char[], Free>;

template <class T>
T read() {
  std::string token;
  if (!(std::cin >> token)) {
    std::fputs("a case ends early\n", stderr);
    std::exit(2);
  }
  if constexpr (std::is_same_v<T, std::string>) {
    return token;
  } else if constexpr (std::is_same_v<T, double>) {
    return std::strtod(token.c_str(), nullptr);
  } else if constexpr (std::is_signed_v<T>) {
    return static_cast<T>(std::strtoll(token.c_str(), nullptr, 10));
  } else {
    return static_cast<T>(std::strtoull(token.c_str(), nullptr, 10));
  }
}

template <class R>
Distribution distribution(const std::string& op, const double* p, DType dtype) {
  const auto count = [&](int i) { return static_cast<uint64_t>(p[i]); };
  if (op == "uniform_") return Uniform<R>::make(p[0], p[1], dtype);
  if (op == "normal_") return Normal<R>{static_cast<R>(p[0]), static_cast<R>(p[1])};
  if (op == "trunc_normal_") return TruncatedNormal<R>::make(p[0], p[1], p[2], p[3], dtype);
  if (op == "sparse_") return Sparse<R>::make(p[0], count(1), count(2), count(3), static_cast<int>(p[4]));
  std::fprintf(stderr, "no op %s\n", op.c_str());
  std::exit(2);
}

template <class T>
std::vector<T> normal(int64_t elements, uint64_t key) {
  std::vector<T> values(static_cast<size_t>(elements));
  Region region{1, {elements}, {1}, {1}, 0};
  cpu::fill(Fill{region, values.data(), dtype_of_arithmetic<T>, Key{key}, Normal<T>{0, 1}});
  return values;
}
template <class T>
void write_product(uint64_t key, int64_t rows, int64_t terms, int64_t columns) {
  std::vector<T> a = normal<T>(rows * terms, key), b = normal<T>(terms * columns, key + 1);
  std::vector<T> c(static_cast<size_t>(rows * columns));
  const auto matrix = [](std::vector<T>& v, int64_t m, int64_t n) {
    return cpu::Matrix<T>{v.data(), m, n, n, 1};
  };
  cpu::Multiplier<T>()(matrix(c, rows, columns), matrix(a, rows, terms), matrix(b, terms, columns), 1, false);
  std::fwrite(c.data(), sizeof(T), c.size(), stdout);
  const std::vector<double> squares = cpu::lower_squares(matrix(a, rows, terms));
  std::fwrite(squares.data(), sizeof(double), squares.size(), stdout);
}

void run_case(const std::string& op) {
  const DType dtype = static_cast<DType>(read<int>());
  const Key key{read<uint64_t>()};
  Region region{};
  region.first_index = read<uint64_t>();
  const int64_t bytes = read<int64_t>(), offset = read<int64_t>();
  region.dims = read<int>();
  for (auto* numbers : {region.sizes, region.strides, region.index_strides}) {
    for (int d = 0; d < region.dims; ++d) numbers[d] = read<int64_t>();
  }
  std::vector<double> parameters(static_cast<size_t>(read<int>()));
  for (double& p : parameters) p = read<double>();

  if (op == "product") {
    const auto size = [&](size_t i) { return static_cast<int64_t>(parameters[i]); };
    return dtype == DType::f64 ? write_product<double>(key.bits, size(0), size(1), size(2))
                               : write_product<float>(key.bits, size(0), size(1), size(2));
  }
  const int64_t element_size = dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
  const Memory memory(new (std::align_val_t{64}) char[static_cast<size_t>(bytes)]);
  std::memset(memory.get(), untouched, static_cast<size_t>(bytes));
  const Distribution d = dtype == DType::f64 ? distribution<double>(op, parameters.data(), dtype)
                                             : distribution<float>(op, parameters.data(), dtype);
  cpu::fill(Fill{region, memory.get() + offset * element_size, dtype, key, d});
  std::fwrite(memory.get(), 1, static_cast<size_t>(bytes), stdout);
}

}  // namespace

// Status 3: this processor does not run that target, a namespace of cpu/targets.def.
int main(int count, char** arguments) {
  if (count != 3) {
    std::fputs("fills TARGET THREADS\n", stderr);
    return 2;
  }
  const std::string names[] = {
#define TARGET(NAMESPACE, ...) #NAMESPACE,
#include "cpu/targets.def"
  };
  const std::vector<cpu::Target> there = cpu::available();
  const auto target = std::find_if(there.begin(), there.end(), [&](cpu::Target t) {
    return names[static_cast<size_t>(t)] == arguments[1];
  });
  if (target == there.end()) return 3;
  cpu::set_active(*target);
  wanted_threads = std::atoi(arguments[2]);
  cpu::set_host({[] { return wanted_threads; }, [] { return 0; }});
  for (std::string op; std::cin >> op;) run_case(op);
}
