// The Q of a Gaussian matrix, without factorising one (contract C9).
//
// Householder's QR factorisation of a Gaussian matrix meets in its column j a vector x_j, of length m - j, that the
// reflectors before it have left Gaussian and independent of themselves. So the x_j can be drawn, not computed:
//
//   v_j = x_j + phase(x_j0) |x_j| e_0,   H_j = 1 - 2 v_j v_j* / |v_j|^2,   R_jj = -phase(x_j0) |x_j|,
//
// and Q = H_0 H_1 ... H_{n-1} D with D_jj = phase(R_jj) is the Q that goes with a positive diagonal of R, which is
// unique and Haar distributed. The x_j are what normal_ would put on and below the diagonal of the tensor, or of its
// transpose, if that is the taller one.
//
// Several reflectors together are one block reflector 1 - V T V*, where T is the inverse of the upper triangle of V* V
// with half its diagonal. The last block is applied first: so Q grows from its last corner, and what is still zero
// costs nothing. With the rows of V split into a triangle V1 and the rest V2,
//
//                 [ D1   0 ]     [ D1 - V1 Z1      - V1 Z2 ]
//   (1 - V T V*)  [  0   Q ]  =  [    - V2 Z1    Q - V2 Z2 ] ,   Z1 = T V1* D1,   Z2 = T V2* Q.
//
// All this takes 4/3 n^3 multiplications and additions for an n x n matrix, where a product of two takes 2 n^3, and
// geqrf and orgqr take 8/3 n^3. V2 stays where it was drawn, in the tensor's own memory, until -V2 Z1 takes its place.
//
// G. Stewart: "The efficient generation of random orthogonal matrices with an application to condition estimators",
//   SIAM J. Numer. Anal. 17 (1980).
// C. Puglisi: "Modification of the Householder method based on the compact WY representation", SIAM J. Sci. Stat.
//   Comput. 13 (1992), for T as an inverse.
// F. Mezzadri: "How to generate random matrices from the classical compact groups", Notices of the AMS 54 (2007).
#include "torch/orthogonal.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/accumulate.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <vector>

#include "core/floating_point.h"
#include "torch/kernels.h"
#include "torch/orthogonal_part.h"
#include "torch/orthogonal_reflect.h"

namespace fastinit {
namespace {

using at::Tensor;

// Fills q, the tall matrix, with gain times the Q of that Gaussian matrix, which is drawn in its place.
template <class Algebra>
void fill_matrix(const typename Algebra::Space& space, const typename Algebra::Matrix& q,
                 const Gaussian& gaussian, double gain) {
  const int64_t m = q.rows, n = q.cols, k = long_reflectors(space, m, n);
  const std::vector<int64_t> columns = first_indices(n);
  gaussian.box(space, q, 0, 0);
  if (k < n) {
    using Wide = typename Algebra::Wide;
    const auto corner = q.block(k, k, m - k, n - k);
    const auto copy = space.wide().make(m - k, n - k);
    Algebra::copy(copy.matrix, corner);
    accumulate<Wide>(space.wide(), copy.matrix, Indices(columns).first(static_cast<size_t>(n - k)), n - k,
                     gain, copy.matrix);
    Algebra::copy(corner, copy.matrix);
  }
  if (k > 0) accumulate<Algebra>(space, q, columns, k, gain, q);
}

// Matrices of at most so many numbers are made one on each thread, if there are some: most of what one needs stays in the
// caches of its core.
constexpr int64_t small_matrix = 1 << 20;

// All of a batch, count x rows x cols, each on one thread. `gaussian` is that of the first one.
template <class T>
void fill_side_by_side(const Tensor& batch, const Gaussian& gaussian, double gain) {
  struct Context {
    cpu::Matrix<T> first;
    int64_t stride;
    Gaussian gaussian;
    double gain;
    std::mutex mutex;
    std::exception_ptr error;
  };
  const Tensor first = gaussian.wide() ? batch[0].t() : batch[0];
  Context context{Native<T>::of(first), batch.stride(0), gaussian, gain, {}, {}};
  const auto work = [](int64_t begin, int64_t end, void* pointer) {
    Context& c = *static_cast<Context*>(pointer);
    const DefaultFloatingPoint guard;
    try {
      for (int64_t i = begin; i < end; ++i) {
        cpu::Matrix<T> q = c.first;
        q.data += i * c.stride;
        fill_matrix<Native<T>>({}, q, c.gaussian.after(i), c.gain);
      }
    } catch (...) {  // no memory
      const std::lock_guard<std::mutex> lock(c.mutex);
      c.error = std::current_exception();
    }
  };
  kernels::check(fastinit_parallel(0, batch.size(0), 1, work, &context));
  if (context.error) std::rethrow_exception(context.error);
}

// A batch of small matrices on the CPU, as many at a time as there is memory for.
template <class T>
void fill_small(const Tensor& self, const Gaussian& gaussian, const Gain& gain,
                const at::TensorOptions& options) {
  const int64_t count = self.size(0), rows = gaussian.rows, cols = gaussian.cols;
  const bool in_place = can_be_viewed(self, {count, rows, cols}, options);
  const int64_t most = in_place ? count : std::min<int64_t>(count, 4 * at::get_num_threads());
  const Tensor memory = in_place ? self.view({count, rows, cols}) : at::empty({most, rows, cols}, options);
  for (int64_t i = 0; i < count; i += most) {
    const Tensor batch = memory.narrow(0, 0, std::min(most, count - i));
    fill_side_by_side<T>(batch, gaussian.after(i), gain.folded());
    gain.finish(batch);
    const Tensor to = self.narrow(0, i, batch.size(0));
    if (!in_place) to.copy_(batch.view(to.sizes()));
  }
}

}  // namespace

void fill_whole(const Tensor& self, const Gaussian& gaussian, const Gain& gain) {
  with_algebra(self, [&]<class Algebra>(Kind<Algebra>, const auto& space, const at::TensorOptions& options) {
    // The libraries that multiply for torch round as the strides please, so they always get the same ones.
    const bool any_strides = !std::is_same_v<Algebra, Aten> || self.is_contiguous();
    const bool in_place = any_strides && can_be_viewed(self, {gaussian.rows, gaussian.cols}, options);
    const Tensor matrix = in_place ? self.view({gaussian.rows, gaussian.cols})
                                   : at::empty({gaussian.rows, gaussian.cols}, options);
    fill_matrix<Algebra>(space, Algebra::of(gaussian.wide() ? matrix.t() : matrix), gaussian, gain.folded());
    gain.finish(matrix);
    if (!in_place) self.copy_(matrix.view(self.sizes()));
  });
}

void fill_batch(const Tensor& self, const Gaussian& gaussian, const Gain& gain) {
  const int64_t count = self.size(0), threads = at::get_num_threads();
  const int64_t turns = (count + threads - 1) / threads;
  // A quarter of the threads' time may be left over.
  const bool small = gaussian.rows * gaussian.cols <= small_matrix && 4 * count >= 3 * turns * threads;
  with_algebra(self, [&]<class Algebra>(Kind<Algebra>, const auto&, const at::TensorOptions& options) {
    if constexpr (!std::is_same_v<Algebra, Aten>) {
      if (small) return fill_small<typename Algebra::Number>(self, gaussian, gain, options);
    }
    for (int64_t i = 0; i < count; ++i) fill_whole(self.select(0, i), gaussian.after(i), gain);
  });
}

namespace {

std::atomic<bool> torch_multiplies{false};

}  // namespace

bool multiply_by_torch(bool always) { return torch_multiplies.exchange(always); }
bool multiplied_by_torch() { return torch_multiplies; }

namespace {

// The first of several tensors, which have their own keys.
void orthogonal_members(const Tensor& first, double gain, const Draw& draw, const Part& part, bool batch) {
  std::vector<Draw> draws;
  for (const TensorKey& key : each_key(draw.members.keys)) draws.push_back({draw.on, key});
  std::vector<int64_t> sizes = first.sizes().vec(), strides = first.strides().vec();
  sizes.insert(sizes.begin(), static_cast<int64_t>(draws.size()));
  strides.insert(strides.begin(), draw.members.stride);
  const Tensor all = first.as_strided(sizes, strides);
  if (part.whole() && !batch) {
    const int64_t rows = first.size(0);
    return fill_batch(all, {draws[0], 0, rows, first.numel() / rows, /*own=*/true}, {gain});
  }
  for (size_t i = 0; i < draws.size(); ++i) {
    orthogonal(all[static_cast<int64_t>(i)], gain, draws[i], part, batch);
  }
}

}  // namespace

void orthogonal(const Tensor& self, double gain, const Draw& draw, const Part& part, bool batch) {
  if (self.numel() == 0) return;
  // The switch to TF32 is global, but this guard is the thread's own. Complex products on the CPU have no such switch.
  const at::NoTF32Guard full_precision;
  // torch.autocast would round the operands of some products to 16 bits, and not those of others.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (draw.members.keys.defined()) return orthogonal_members(self, gain, draw, part, batch);
  const at::IntArrayRef shape = part.shape_for(self), matrix = batch ? shape.slice(1) : shape;
  const Gaussian gaussian{draw, 0, matrix[0], c10::multiply_integers(matrix.slice(1))};
  if (!part.whole()) return fill_part(self, gaussian, {gain}, part, batch);
  batch ? fill_batch(self, gaussian, {gain}) : fill_whole(self, gaussian, {gain});
}

}  // namespace fastinit
