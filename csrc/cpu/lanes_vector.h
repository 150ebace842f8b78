// What AVX2, AVX-512 and NEON lanes have in common: vectors of T in a register type V, and the operations that compilers know.
#pragma once

#include "core/lanes.h"

namespace fastinit {

// `Set` makes and loads registers: Set::all(x), Set::load_words(p, T()).
template <class Set, class T, class V>
struct Vector {
  static constexpr int lanes = sizeof(V) / sizeof(T);
  V v;
  Vector() = default;
  FASTINIT_INLINE Vector(V x) : v(x) {}
  FASTINIT_INLINE explicit Vector(T x) : v(Set::all(x)) {}
  static FASTINIT_INLINE Vector load(const uint32_t* p) { return Set::load_words(p, T()); }

  // The register as a vector of T, on which C++ operators are the instructions for T.
  typedef T Numbers __attribute__((vector_size(sizeof(V))));
  FASTINIT_INLINE Numbers n() const { return reinterpret_cast<Numbers>(v); }

  friend FASTINIT_INLINE Vector operator+(Vector a, Vector b) { return reinterpret_cast<V>(a.n() + b.n()); }
  friend FASTINIT_INLINE Vector operator-(Vector a, Vector b) { return reinterpret_cast<V>(a.n() - b.n()); }
  friend FASTINIT_INLINE Vector operator*(Vector a, Vector b) { return reinterpret_cast<V>(a.n() * b.n()); }
  friend FASTINIT_INLINE Vector operator/(Vector a, Vector b) { return reinterpret_cast<V>(a.n() / b.n()); }
  friend FASTINIT_INLINE Vector operator&(Vector a, Vector b) { return reinterpret_cast<V>(a.n() & b.n()); }
  friend FASTINIT_INLINE Vector operator|(Vector a, Vector b) { return reinterpret_cast<V>(a.n() | b.n()); }
  friend FASTINIT_INLINE Vector operator^(Vector a, Vector b) { return reinterpret_cast<V>(a.n() ^ b.n()); }
};

template <class Set, int Lanes, class V>
struct Mask {
  static constexpr int lanes = Lanes;
  V v;
};

}  // namespace fastinit
