// The C interface: plain data becomes what the kernels take, and exceptions become a status and a message.
#include "kernels/interface.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <variant>

#include "core/fill.h"
#include "core/floating_point.h"
#include "cpu/fill.h"
#include "cpu/parallel.h"
#include "cpu/product.h"
#include "cpu/target.h"

#if defined(FASTINIT_WITH_CUDA)
#include "cuda/fill.h"
#endif

using namespace fastinit;

struct fastinit_multiplier {
  std::variant<cpu::Multiplier<float>, cpu::Multiplier<double>> of;
};

namespace {

thread_local char message[1024] = "";

int failed(fastinit_status status, const char* what) noexcept {
  std::strncpy(message, what, sizeof message - 1);
  return status;
}

template <class F>
int status_of(const F& f) noexcept try {
  f();
  return FASTINIT_OK;
} catch (const std::invalid_argument& error) {
  return failed(FASTINIT_INVALID, error.what());
} catch (const std::bad_alloc& error) {
  return failed(FASTINIT_NO_MEMORY, error.what());
} catch (const std::exception& error) {
  return failed(FASTINIT_FAILED, error.what());
} catch (...) {
  return failed(FASTINIT_FAILED, "an unknown error");
}

// ---- The same numbers on both sides of the door ---------------------------------------------------------------------

template <class Here, class There>
constexpr bool same(Here here, There there) {
  return static_cast<int>(here) == static_cast<int>(there);
}
static_assert(same(DType::f32, FASTINIT_F32) && same(DType::f64, FASTINIT_F64) &&
              same(DType::f16, FASTINIT_F16) && same(DType::bf16, FASTINIT_BF16) &&
              same(DType::f8_e4m3fn, FASTINIT_F8_E4M3FN) && same(DType::f8_e4m3fnuz, FASTINIT_F8_E4M3FNUZ) &&
              same(DType::f8_e5m2, FASTINIT_F8_E5M2) && same(DType::f8_e5m2fnuz, FASTINIT_F8_E5M2FNUZ));
static_assert(same(cpu::Part::all, FASTINIT_ALL) && same(cpu::Part::lower, FASTINIT_LOWER) &&
              same(cpu::Part::upper, FASTINIT_UPPER));
static_assert(Region::max_dims == FASTINIT_MOST_DIMS && cpu::Multiplier<float>::chunk == FASTINIT_MOST_TERMS);

template <class R>
Distribution distribution_of(const fastinit_distribution& d, DType dtype) {
  const double* const p = d.parameters;
  switch (d.kind) {
    case FASTINIT_UNIFORM:
      return Uniform<R>::make(p[0], p[1], dtype);
    case FASTINIT_NORMAL:
      return Normal<R>{static_cast<R>(p[0]), static_cast<R>(p[1])};
    case FASTINIT_TRUNCATED_NORMAL:
      return TruncatedNormal<R>::make(p[0], p[1], p[2], p[3], dtype);
    case FASTINIT_SPARSE:
      return Sparse<R>::make(p[0], d.rows, d.columns, d.zeros, d.parts);
  }
  throw std::runtime_error("fastinit's kernels know no distribution of kind " + std::to_string(d.kind));
}

Fill fill_of(const fastinit_fill& f, uint64_t key) {
  if (f.dims < 1 || f.dims > FASTINIT_MOST_DIMS || f.dtype < FASTINIT_F32 || f.dtype > FASTINIT_F8_E5M2FNUZ) {
    throw std::runtime_error("fastinit's kernels know no dtype " + std::to_string(f.dtype) + " with " +
                             std::to_string(f.dims) + " dimensions");
  }
  const DefaultFloatingPoint guard;  // for the parameters, which are rounded here
  const DType dtype = static_cast<DType>(f.dtype);
  Fill fill{{},
            f.data,
            dtype,
            Key{key},
            dtype == DType::f64 ? distribution_of<double>(f.distribution, dtype)
                                : distribution_of<float>(f.distribution, dtype)};
  Region& region = fill.region;
  region.dims = f.dims;
  std::copy_n(f.sizes, f.dims, region.sizes);
  std::copy_n(f.strides, f.dims, region.strides);
  std::copy_n(f.index_strides, f.dims, region.index_strides);
  region.first_index = f.first_index;
  return fill;
}

template <class T>
cpu::Matrix<T> matrix_of(const fastinit_matrix& m) {
  return {static_cast<T*>(m.data),       m.rows, m.cols, m.row_stride, m.col_stride,
          static_cast<cpu::Part>(m.part)};
}

template <class T>
void copy_lower_squares(const fastinit_matrix& a, double* sums) {
  const std::vector<double> found = cpu::lower_squares(matrix_of<T>(a));
  std::copy(found.begin(), found.end(), sums);
}

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

const char* instruction_sets() {
  static const std::string names = [] {
    std::string list;
    for (const cpu::Target t : cpu::built()) {
      if (!list.empty()) list += ' ';
      list += cpu::name(t);
    }
    return list;
  }();
  return names.c_str();
}

[[maybe_unused]] int no_cuda() {
  return failed(FASTINIT_FAILED, "fastinit: these kernels were built without CUDA");
}

}  // namespace

#if !defined(FASTINIT_CUDA_ARCHS)
#define FASTINIT_CUDA_ARCHS ""
#endif
#if !defined(FASTINIT_CUDA_TOOLKIT)
#define FASTINIT_CUDA_TOOLKIT ""
#endif
#if !defined(FASTINIT_CUDA_MISSING)
#define FASTINIT_CUDA_MISSING ""
#endif

const char* fastinit_message() { return message; }

int fastinit_open(int32_t interface_version, const fastinit_host* host) {
  return status_of([&] {
    if (interface_version != FASTINIT_INTERFACE) {
      throw std::runtime_error("fastinit's kernels have interface " + std::to_string(FASTINIT_INTERFACE) +
                               ", not " + std::to_string(interface_version));
    }
    cpu::set_host({host->threads, host->in_parallel});
  });
}

const char* fastinit_build_info(const char* name) {
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  return is("version")              ? FASTINIT_VERSION
         : is("compiler")           ? compiler()
         : is("instruction_sets")   ? instruction_sets()
         : is("cuda_architectures") ? FASTINIT_CUDA_ARCHS
         : is("cuda_toolkit")       ? FASTINIT_CUDA_TOOLKIT
         : is("cuda_missing")       ? FASTINIT_CUDA_MISSING
                                    : "";
}

int fastinit_instruction_set(const char** name) {
  return status_of([&] { *name = cpu::name(cpu::active()); });
}

int fastinit_set_instruction_set(const char* name, const char** before) {
  return status_of([&] {
    for (const cpu::Target t : cpu::available()) {
      if (std::strcmp(name, cpu::name(t)) == 0) {
        *before = cpu::name(cpu::set_active(t));
        return;
      }
    }
    throw std::invalid_argument("no such CPU capability here: " + std::string(name));
  });
}

int fastinit_fill_on_cpu(const fastinit_fill* fill, const uint64_t* keys, int64_t count, int64_t step) {
  static_assert(sizeof(Key) == sizeof(uint64_t) && std::is_standard_layout_v<Key>);
  return status_of([&] { cpu::fill(fill_of(*fill, 0), {reinterpret_cast<const Key*>(keys), count, step}); });
}

#if defined(FASTINIT_WITH_CUDA)
int fastinit_fill_on_cuda(const fastinit_fill* fill, uint64_t key, const uint64_t* device_key, int32_t device,
                          void* stream) {
  return status_of([&] { cuda::fill(fill_of(*fill, key), device_key, {device, stream}); });
}
int fastinit_cuda_is_capturing(int32_t device, void* stream, int32_t* capturing) {
  return status_of([&] { *capturing = cuda::capturing({device, stream}); });
}
#else
int fastinit_fill_on_cuda(const fastinit_fill*, uint64_t, const uint64_t*, int32_t, void*) {
  return no_cuda();
}
int fastinit_cuda_is_capturing(int32_t, void*, int32_t*) { return no_cuda(); }
#endif

int fastinit_multiplier_new(int32_t dtype, fastinit_multiplier** made) {
  return status_of([&] {
    *made = dtype == FASTINIT_F64 ? new fastinit_multiplier{cpu::Multiplier<double>()}
                                  : new fastinit_multiplier{cpu::Multiplier<float>()};
  });
}
void fastinit_multiplier_delete(fastinit_multiplier* multiplier) { delete multiplier; }

int fastinit_multiplier_reserve(fastinit_multiplier* multiplier, int64_t rows, int64_t cols, int64_t terms) {
  return status_of([&] { std::visit([&](auto& m) { m.reserve(rows, cols, terms); }, multiplier->of); });
}

int fastinit_multiply(fastinit_multiplier* multiplier, const fastinit_matrix* c, const fastinit_matrix* a,
                      const fastinit_matrix* b, double alpha, int32_t add) {
  return status_of([&] {
    std::visit(
        [&]<class T>(cpu::Multiplier<T>& multiply) {
          multiply(matrix_of<T>(*c), matrix_of<T>(*a), matrix_of<T>(*b), static_cast<T>(alpha), add != 0);
        },
        multiplier->of);
  });
}

int fastinit_lower_squares(int32_t dtype, const fastinit_matrix* a, double* sums) {
  return status_of([&] {
    dtype == FASTINIT_F64 ? copy_lower_squares<double>(*a, sums) : copy_lower_squares<float>(*a, sums);
  });
}

int fastinit_parallel(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                      void* context) {
  return status_of([&] { cpu::parallel_for(begin, end, grain, work, context); });
}
