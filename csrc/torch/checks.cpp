#include "torch/checks.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/normal.h"

namespace fastinit {
namespace {

thread_local const char* caller = nullptr;

}  // namespace

Caller::Caller(const char* name) : outer_(caller) { caller = name; }
Caller::~Caller() { caller = outer_; }
const char* title(const char* op) { return caller != nullptr ? caller : op; }

// ---- Memory ------------------------------------------------------------------------------------------------------

namespace {

// A dimension of memory: `size` elements, `stride` apart.
struct Dimension {
  int64_t stride, size;

  int64_t reach() const { return stride * (size - 1); }
};

using Wide = __int128;

// Whether x * first.stride + y * second.stride == target for integers with |x| < first.size and |y| < second.size.
bool meets(Dimension first, Dimension second, Wide target) {
  // Bezout: gcd = u * first.stride + v * second.stride, so that one solution, if there are any, is x0 = u * target / gcd.
  // All others are k steps away from it, and both sizes allow a range of k.
  Wide gcd = first.stride, other = second.stride, u = 1, next_u = 0;
  while (other != 0) {
    const Wide quotient = gcd / other;
    std::swap(gcd -= quotient * other, other);
    std::swap(u -= quotient * next_u, next_u);
  }
  if (target % gcd != 0) return false;
  const Wide a = first.stride / gcd, b = second.stride / gcd, t = target / gcd;
  const Wide x0 = ((u % b) * (t % b)) % b, y0 = (t - x0 * a) / b;  // x = x0 + k b, y = y0 - k a
  const auto floor_div = [](Wide n, Wide d) { return n >= 0 ? n / d : -((-n + d - 1) / d); };
  const auto ceil_div = [&](Wide n, Wide d) { return -floor_div(-n, d); };
  const Wide from = std::max(ceil_div(1 - first.size - x0, b), ceil_div(y0 - second.size + 1, a));
  const Wide to = std::min(floor_div(first.size - 1 - x0, b), floor_div(y0 + second.size - 1, a));
  return from <= to;
}

// Looks for combinations of strides, and gives up when it has tried too many: a second's work, which takes four or more
// dimensions that all interleave.
class Search {
 public:
  // Whether sum x_d * stride_d == target for integers with |x_d| < size_d. Of the first `count` dimensions, which come by
  // rising strides.
  bool meets(const std::vector<Dimension>& dims, size_t count, Wide target) {
    if (count == 1)
      return target % dims[0].stride == 0 && std::max(target, -target) / dims[0].stride < dims[0].size;
    if (++steps_ > most_steps) return false;
    if (count == 2) return fastinit::meets(dims[0], dims[1], target);
    // The others have to make up for the rest, and reach no farther.
    const Dimension last = dims[count - 1];
    const Wide reach = reach_of(dims, count - 1);
    const Wide most = std::min<Wide>(last.size - 1, (target + reach) / last.stride);
    for (Wide x = std::max<Wide>(1 - last.size, (target - reach) / last.stride); x <= most && !gave_up();
         ++x) {
      if (meets(dims, count - 1, target - x * last.stride)) return true;
    }
    return false;
  }
  static Wide reach_of(const std::vector<Dimension>& dims, size_t count) {
    return std::accumulate(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(count), Wide{0},
                           [](Wide sum, const Dimension& d) { return sum + d.reach(); });
  }
  bool gave_up() const { return steps_ > most_steps; }

 private:
  static constexpr int64_t most_steps = int64_t{1} << 24;
  int64_t steps_ = 0;
};

}  // namespace

std::optional<bool> shares_memory(at::IntArrayRef sizes, at::IntArrayRef strides) {
  std::vector<Dimension> dims;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return false;
    if (sizes[d] > 1 && strides[d] == 0) return true;
    if (sizes[d] > 1) dims.push_back({strides[d], sizes[d]});
  }
  std::sort(dims.begin(), dims.end(),
            [](const Dimension& a, const Dimension& b) { return a.stride < b.stride; });
  if (dims.size() < 2) return false;
  // Two strides first meet at their least common multiple.
  const int64_t gcd = std::gcd(dims[0].stride, dims[1].stride);
  if (dims[1].stride / gcd < dims[0].size && dims[0].stride / gcd < dims[1].size) return true;
  // Two elements share memory if a combination of strides is zero whose factors are smaller than the sizes, and not all
  // zero. Let `last` be the longest stride with a factor; by symmetry it is positive.
  Search search;
  for (size_t count = 3; count <= dims.size(); ++count) {
    const Dimension last = dims[count - 1];
    const Wide most = std::min<Wide>(last.size - 1, Search::reach_of(dims, count - 1) / last.stride);
    for (Wide x = 1; x <= most && !search.gave_up(); ++x) {
      if (search.meets(dims, count - 1, -x * last.stride)) return true;
    }
  }
  return search.gave_up() ? std::nullopt : std::optional(false);
}

namespace {

// Whether the storage, if there is one, reaches to the tensor's last element.
bool has_memory(const at::Tensor& self) {
  if (!self.has_storage() || self.is_nested() || self.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) {
    return true;
  }
  if (self.numel() == 0) return true;
  int64_t last = self.storage_offset();
  for (int64_t d = 0; d < self.dim(); ++d) last += (self.size(d) - 1) * self.stride(d);
  return static_cast<size_t>(last + 1) * self.itemsize() <= self.storage().nbytes();
}

}  // namespace

void check_one_value_writable(const char* op, const at::Tensor& self) {
  // Who frees a storage, and keeps the tensors for later (as FSDP does), should not find them filled.
  FASTINIT_CHECK(self.is_meta() || has_memory(self), op, "tensor of sizes ", self.sizes(), " and strides ",
                 self.strides(), " goes beyond its storage of ", self.storage().nbytes(), " bytes");
  FASTINIT_CHECK(!self.is_inference() || c10::InferenceMode::is_enabled(), op,
                 "tensor is an inference tensor, which can be updated in inference mode only; clone() it");
}

void check_writable(const char* op, const at::Tensor& self) {
  TORCH_CHECK_NOT_IMPLEMENTED(self.layout() == at::kStrided && !self.is_nested() && !self.is_quantized(),
                              "fastinit.", title(op),
                              ": tensor must be dense, not nested and not quantized, but has layout ",
                              self.layout(), " and dtype ", self.scalar_type());
  check_one_value_writable(op, self);
  const at::MemOverlap overlap = at::has_internal_overlap(self);
  if (overlap == at::MemOverlap::No) return;
  const std::optional<bool> shares =
      overlap == at::MemOverlap::Yes ? true : shares_memory(self.sizes(), self.strides());
  FASTINIT_CHECK(shares == false, op,
                 shares.has_value()
                     ? "tensor has elements that share memory"
                     : "whether elements of the tensor share memory takes too long to find out",
                 " (sizes ", self.sizes(), ", strides ", self.strides(), "); clone() it before filling it");
}

void check_part(const char* op, const at::Tensor& self, const Part& part) {
  if (part.whole()) return;
  const bool flat = part.flat(self.sizes());
  const std::optional<std::vector<size_t>> begin = runs_of(self.sizes(), part);
  bool within = part.first.size() == part.length.size() && begin.has_value() &&
                (flat || part.shape.size() == static_cast<size_t>(self.dim()));
  for (size_t d = 0; within && d + 1 < begin->size(); ++d) {
    const int64_t size = flat ? c10::multiply_integers(part.shape) : part.shape[d];
    int64_t end = 0;
    for (size_t i = (*begin)[d]; i < (*begin)[d + 1]; ++i) {  // one after the other
      within =
          within && end <= part.first[i] && part.length[i] >= 0 && part.first[i] <= size - part.length[i];
      end = part.first[i] + part.length[i];
    }
  }
  FASTINIT_CHECK_VALUE(within, op, "a part of sizes ", self.sizes(), " with the indices from ", part.first,
                       " on, as many as ", part.length, ", does not lie within a whole of the shape ",
                       part.shape);
}

// ---- Parameters --------------------------------------------------------------------------------------------------

double largest(DType dtype) { return highest(dtype); }

void check_finite(const char* op, const at::Tensor& self, const char* name, double value) {
  FASTINIT_CHECK(std::isfinite(value), op, name, " must be finite, but is ", value);
  FASTINIT_CHECK(dtype_of(self) == DType::f64 || std::abs(value) <= FLT_MAX, op, name,
                 " is out of bounds for float32, in which ", self.scalar_type(), " is computed: ", value);
}

void check_std(const char* op, const at::Tensor& self, double std) {
  FASTINIT_CHECK(std >= 0, op, "std must not be negative, but is ", std);
  check_finite(op, self, "std", std);
}

void check_normal(const char* op, const at::Tensor& self, double mean, double std) {
  check_finite(op, self, "mean", mean);
  check_std(op, self, std);
  const DType dtype = dtype_of(self);
  const double sigmas = dtype == DType::f64 ? largest_normal<double> : largest_normal<float>;
  FASTINIT_CHECK(saturates(dtype) || std::abs(mean) + sigmas * std <= largest(dtype), op, "values with mean ",
                 mean, " and std ", std, " may be as large as mean + ", sigmas,
                 " std, which is out of bounds for ", self.scalar_type());
}

void check_interval(const char* op, const at::Tensor& self, double lower, double upper, bool open) {
  FASTINIT_CHECK(lower <= upper, op, "a must not be above b, but a=", lower, " and b=", upper);
  if (lower == upper && std::isfinite(lower)) return;  // that value, rounded to nearest
  const DType dtype = dtype_of(self);
  const double first = round_up(dtype, std::max(lower, -largest(dtype)));
  FASTINIT_CHECK(std::isfinite(first) && (open ? first < upper : first <= upper), op, self.scalar_type(),
                 " has no number in [a, b", open ? ")" : "]", ", with a=", lower, " and b=", upper);
}

}  // namespace fastinit
