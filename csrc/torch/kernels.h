// The kernels as csrc/torch calls them: through their C interface, whose statuses become exceptions.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/matrix.h"
#include "kernels/interface.h"

namespace fastinit::kernels {

// Tells the library about torch's threads. Throws if it is another version's.
void open();
bool have_cuda();

void throw_error(int status);
inline void check(int status) {
  if (status != FASTINIT_OK) throw_error(status);
}

// ---- Distributions --------------------------------------------------------------------------------------------------

inline fastinit_distribution uniform(double a, double b) {
  return {FASTINIT_UNIFORM, {a, b, 0, 0}, 0, 0, 0, 0};
}
inline fastinit_distribution normal(double mean, double std) {
  return {FASTINIT_NORMAL, {mean, std, 0, 0}, 0, 0, 0, 0};
}
inline fastinit_distribution truncated_normal(double mean, double std, double lower, double upper) {
  return {FASTINIT_TRUNCATED_NORMAL, {mean, std, lower, upper}, 0, 0, 0, 0};
}
inline fastinit_distribution sparse(double std, uint64_t rows, uint64_t columns, uint64_t zeros, int parts) {
  return {FASTINIT_SPARSE, {std, 0, 0, 0}, parts, rows, columns, zeros};
}

// ---- Products -------------------------------------------------------------------------------------------------------

template <class T>
constexpr fastinit_dtype dtype = std::is_same_v<T, double> ? FASTINIT_F64 : FASTINIT_F32;

template <class T>
fastinit_matrix plain(const cpu::Matrix<T>& m) {
  return {m.data, m.rows, m.cols, m.row_stride, m.col_stride, static_cast<int32_t>(m.part)};
}

// See cpu/product.h.
template <class T>
class Multiplier {
 public:
  Multiplier() {
    fastinit_multiplier* made = nullptr;
    check(fastinit_multiplier_new(dtype<T>, &made));
    multiplier_.reset(made);
  }
  void reserve(int64_t rows, int64_t cols, int64_t terms) {
    check(fastinit_multiplier_reserve(multiplier_.get(), rows, cols, terms));
  }
  void operator()(const cpu::Matrix<T>& c, const cpu::Matrix<T>& a, const cpu::Matrix<T>& b, T alpha,
                  bool add) {
    const fastinit_matrix of_c = plain(c), of_a = plain(a), of_b = plain(b);
    check(fastinit_multiply(multiplier_.get(), &of_c, &of_a, &of_b, static_cast<double>(alpha), add));
  }

 private:
  struct Delete {
    void operator()(fastinit_multiplier* p) const { fastinit_multiplier_delete(p); }
  };
  std::unique_ptr<fastinit_multiplier, Delete> multiplier_;
};

template <class T>
std::vector<double> lower_squares(const cpu::Matrix<T>& a) {
  std::vector<double> sums(static_cast<size_t>(a.cols));
  const fastinit_matrix of_a = plain(a);
  check(fastinit_lower_squares(dtype<T>, &of_a, sums.data()));
  return sums;
}

}  // namespace fastinit::kernels
