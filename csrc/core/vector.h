// What every V has beside its operators, select, fma and sqrt, made of these and of its bits: once for Vec, a register
// of the CPU (cpu/simd.h), and for Lane, the one value of a CUDA thread (cuda/lane.cuh).
//
// V::Scalar is its element, V::Raw what it holds, V::Bits the same as integers; V::number(bits) rounds integers to
// Scalar.
#pragma once

#include <limits>
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

// The second argument where they are equal or one is NaN: x86's own maximum and minimum.
template <Vector V>
FN V larger(V a, V b) {
  return select(a > b, a, b);
}
template <Vector V>
FN V smaller(V a, V b) {
  return select(a < b, a, b);
}
// NaN in either argument gives NaN (as torch.maximum); max(-0, +0) is its second argument.
template <Vector V>
FN V max(V a, V b) {
  return select(a != a, a, larger(a, b));
}
template <Vector V>
FN V min(V a, V b) {
  return select(a != a, a, smaller(a, b));
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

// (1 + q)·2^n of n + kMagic, rounded as 1 + q is, and once more where it is subnormal: 2ⁿ in two factors, as it may be
// out of range by itself.
template <Vector V>
FN V scaled_successor(V q, V raised) {
  using T = typename V::Scalar;
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52, bias = sizeof(T) == 4 ? 127 : 1023;
  const auto n = to_bits(raised) - to_bits(V(kMagic<T>)), half = n >> 1;
  const V first = from_bits<V>((half + bias) << mantissa), second = from_bits<V>((n - half + bias) << mantissa);
  return fma(first, q, first) * second;
}

// k with ¾ ≤ x·2^−k < 1½, times kExponentUnit, for positive x in the range of normal exponents. Returns what is to be
// taken from the bits of a number to multiply it by 2^−k, which in float is the unit. (AVX2 converts no integers of 64
// bits.) Negative x would overflow.
template <class T>
inline constexpr T kExponentUnit = sizeof(T) == 4 ? T(0x1p23) : T(1);
template <Vector V>
FN Bits<V> exponent(V x, V& k) {
  using T = typename V::Scalar;
  const auto bits = to_bits(x) - to_bits(V(T(0.75))), whole = bits & to_bits(V(-std::numeric_limits<T>::infinity()));
  if constexpr (sizeof(T) == 4) {
    k = V::number(whole);
  } else {
    const V magic(kMagic<T>);
    k = from_bits<V>(to_bits(magic) + (bits >> 52)) - magic;
  }
  return whole;
}

}  // namespace fusedstep::ISA
