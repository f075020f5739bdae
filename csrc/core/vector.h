// What every V has beside its operators, select, fma and sqrt, made of these and of its bits: once for Vec, a register
// of the CPU (cpu/simd.h), and for Lane, the one value of a CUDA thread (cuda/lane.cuh).
//
// V::Scalar is its element, V::Raw what it holds, V::Bits the same as integers.
#pragma once

#include <utility>

#include "core/fn.h"

namespace fusedstep::ISA {

// f(0), …, f(n-1), each index a constant, so that an array it indexes lives in registers.
template <int n, class F>
FN void unroll(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }(std::make_integer_sequence<int, n>{});
}

template <class V>
concept Vector = requires {
  typename V::Scalar;
  typename V::Raw;
  typename V::Bits;
};

template <class V>
using Bits = typename V::Bits;

template <Vector V>
FN Bits<V> to_bits(V a) {
  return __builtin_bit_cast(Bits<V>, a.raw);
}
template <Vector V>
FN V from_bits(Bits<V> bits) {
  return V(__builtin_bit_cast(typename V::Raw, bits));
}

// NaN in either argument gives NaN (as torch.maximum); max(-0, +0) is its second argument.
template <Vector V>
FN V max(V a, V b) {
  return select((a > b) | (a != a), a, b);
}
template <Vector V>
FN V min(V a, V b) {
  return select((a < b) | (a != a), a, b);
}

template <Vector V>
FN V abs(V a) {
  return from_bits<V>(to_bits(a) & ~to_bits(V(typename V::Scalar(-0.0))));
}
// |a| with the sign of b.
template <Vector V>
FN V copysign(V a, V b) {
  const auto sign = to_bits(V(typename V::Scalar(-0.0)));
  return from_bits<V>((to_bits(a) & ~sign) | (to_bits(b) & sign));
}

// Added to |a| < 2^(mantissa bits - 1), 1.5·2^p leaves no fraction bits.
template <class T>
inline constexpr T kMagic = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);

// Nearest integer, ties to even, in that range.
template <Vector V>
FN V round(V a) {
  const V magic(kMagic<typename V::Scalar>);
  return (a + magic) - magic;
}
// 2^(n + shift) of n + kMagic, an integer, in the range of normal exponents; 0 one below.
template <int shift = 0, Vector V>
FN V pow2_of_raised(V raised) {
  using T = typename V::Scalar;
  const V magic(kMagic<T>);
  const auto integer = to_bits(raised) - to_bits(magic);
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52, bias = sizeof(T) == 4 ? 127 : 1023;
  return from_bits<V>((integer + (bias + shift)) << mantissa);
}
template <Vector V>
FN V pow2(V n) {
  return pow2_of_raised(n + V(kMagic<typename V::Scalar>));
}

// x = 2^k·m with √½ ≤ m < √2, for positive x in the range of normal exponents: returns m. The sign of others is left
// out, so that no difference of bits overflows.
template <Vector V>
FN V split(V x, V& k) {
  using T = typename V::Scalar;
  const V magic(kMagic<T>), root_half(sizeof(T) == 4 ? T(0x1.6a09e6p-1f) : T(0x1.6a09e667f3bcdp-1));
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  const auto bits = to_bits(abs(x)), exponent = (bits - to_bits(root_half)) >> mantissa;
  k = from_bits<V>(to_bits(magic) + exponent) - magic;
  return from_bits<V>(bits - (exponent << mantissa));
}

}  // namespace fusedstep::ISA
