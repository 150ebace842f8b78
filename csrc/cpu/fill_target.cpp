// The CPU's loops over regions, runs and groups of Philox blocks.
//
// Compiled once per instruction set, with FASTINIT_TARGET naming it. Everything here that is not inlined lives in a
// namespace of that name: two instruction sets must never share a symbol.
#include "cpu/fill_target.h"

#include "core/floating_point.h"
#include "cpu/elementwise.h"
#include "cpu/region.h"
#include "cpu/rejection.h"
#include "cpu/sparse.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

template <class T, class D>
void fill_part(const cpu::Job& job, int64_t begin, int64_t end) {
  const DefaultFloatingPoint guard;
  const Keys keys(job.key);
  const D& distribution = *static_cast<const D*>(job.distribution);
  fill_region(Task<T, D>{job.region, static_cast<T*>(job.data), Rounding<T>(job.dtype), keys, distribution,
                         job.streaming},
              begin, end);
#if defined(__x86_64__)
  if (job.streaming) _mm_sfence();
#endif
}

template <class D>
cpu::FillPart fill_part(DType dtype) {
  return with_type<typename D::Arithmetic>(dtype,
                                           [](auto t) -> cpu::FillPart { return fill_part<decltype(t), D>; });
}

template <class... D>
cpu::FillPart fill_part(const std::variant<D...>*, size_t alternative, DType dtype) {
  static constexpr cpu::FillPart (*choices[])(DType) = {fill_part<D>...};
  return choices[alternative](dtype);
}

}  // namespace

cpu::FillPart fill_part(size_t alternative, DType dtype) {
  return fill_part(static_cast<const Distribution*>(nullptr), alternative, dtype);
}

}  // namespace fastinit::FASTINIT_TARGET
