// csrc/core for the tests, one number at a time: what is a word of the stream, a logarithm, a choice.
// tests/support/native.py compiles it.
#include "core/elementary.h"
#include "core/fill.h"

using namespace fastinit;
using One = Portable<1>;

extern "C" {

void philox(const uint32_t* counter, const uint32_t* key, uint32_t* result) {
  using U64 = One::U64;
  const auto words = philox4x32_10<One>(U64(counter[0]), U64(counter[1]), U64(counter[2]), U64(counter[3]),
                                        Key{key[0] | static_cast<uint64_t>(key[1]) << 32});
  for (int i = 0; i < 4; ++i) result[i] = static_cast<uint32_t>(words.w[i].v[0]);
}

// (-2 ln u, x, y) of each word; `bits` is 32 or 64 and chooses the arithmetic.
void elementary(const uint64_t* words, int64_t n, int bits, double* log, double* x, double* y) {
  for (int64_t i = 0; i < n; ++i) {
    const auto put = [&](auto l, auto t) {
      const double sign = t.negative.v[0] != 0 ? -1 : 1;
      log[i] = l.v[0];
      x[i] = sign * t.x.v[0];
      y[i] = sign * t.y.v[0];
    };
    if (bits == 32) {
      const One::U32 word(static_cast<uint32_t>(words[i]));
      put(minus_two_log<One>(word), turn<One>(word));
    } else {
      const One::U64 word(words[i]);
      put(minus_two_log<One>(word), turn<One>(word));
    }
  }
}

// The method for each (mean, std, a, b), in float64 arithmetic.
void methods(const double* parameters, int64_t n, int32_t* result) {
  for (int64_t i = 0; i < n; ++i, parameters += 4) {
    const auto d =
        TruncatedNormal<double>::make(parameters[0], parameters[1], parameters[2], parameters[3], DType::f64);
    result[i] = static_cast<int32_t>(d.method);
  }
}

// Quantiles of the interval at n words, and which approximation makes them.
int quantiles(double alpha, double beta, const uint32_t* words, int64_t n, float* z) {
  const Quantile q = Quantile::make(alpha, beta);
  for (int64_t i = 0; i < n; ++i)
    z[i] = q.operator()<One>({One::U32(words[i]), One::U32(words[i])}).first.v[0];
  return static_cast<int>(q.range);
}
bool covered(double alpha, double beta) { return Quantile::covers(alpha, beta); }

double mass(double x) { return central_mass(x); }
double mills(double x) { return mills_ratio(x); }
double exponential(double x) { return exp_of_negative(x); }

// `dtype` counts as DType does.
double up(int dtype, double x) { return round_up(static_cast<DType>(dtype), x); }
double down(int dtype, double x) { return round_down(static_cast<DType>(dtype), x); }
void to_float8(int dtype, int64_t n, const float* x, uint8_t* result) {
  const Rounding<Float8> round(static_cast<DType>(dtype));
  for (int64_t i = 0; i < n; ++i) result[i] = round(x[i]).bits;
}
}
