// Normal distribution (contract C4).
//
// G. Box, M. Muller: "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958).
#pragma once

#include "core/elementary.h"
#include "core/stream.h"

namespace fastinit {

// Two independent standard normals from two words: always two in, two out.
template <class L, class B>
FASTINIT_INLINE auto box_muller(Pair<B> bits) -> Pair<decltype(as_real(bits.first))> {
  const auto direction = turn<L>(bits.second);
  const auto radius = as_real(as_bits(sqrt(minus_two_log<L>(bits.first))) ^ direction.negative);
  return {radius * direction.x, radius * direction.y};
}

// No standard normal is larger: the radius of the smallest word.
template <class R>
constexpr double largest_normal = sizeof(R) == sizeof(double) ? 9.5 : 6.77;

template <class R>
struct Normal {
  using Arithmetic = R;
  static constexpr const char* op = "normal_";
  R mean, std;

  template <class L>
  FASTINIT_INLINE Pair<Real<L, R>> values(Pair<Bits<L, R>> bits) const {
    const Real<L, R> m(mean), s(std);
    const auto z = box_muller<L>(bits);
    return {fma(z.first, s, m), fma(z.second, s, m)};
  }
};

}  // namespace fastinit
