// exp, sigmoid, tanh, log, log1p and softplus over V, the same bits on every instruction set: branch-free, each
// multiply-add of a polynomial or of a reduction an explicit fma.
//
//   k·x = n·ln2 + r, |r| ≤ ln2/2        q = eʳ − 1 = r + r²·g(r), g a polynomial        so e^kx = 2ⁿ + 2ⁿ·q
//
//   exp      k = 1     e^x
//   sigmoid  k = −1    σ(x) = 1 / (1 + e⁻ˣ)
//   tanh     k = −2    tanh|x| = (1 − e^−2|x|) / (1 + e^−2|x|), with the sign of x
//
// 1 ± e^kx is fma(±2ⁿ, q, 1 ± 2ⁿ): e^kx is never rounded by itself. The exponent of tanh is negative, so its numerator
// stays below 1, where an ULP is half as large. Reduction: Cody and Waite, "Software Manual for the Elementary
// Functions", 1980, chapter 6. g: Remez exchange, rounded to T; the float one then searched for the best rounding.
//
//   x = 2ᵏ·(1 + f), ¾ ≤ 1 + f < 1½        log(x) = k·ln2 + log(1 + f)
//
//   float     log(1 + f) = f − f²·(½ − f·p(f)), and k·ln2 in one fma: what float leaves out of ln2 is 1/30 of its ULP
//   double    log(1 + f) = 2·atanh(s) = f − f²/2 + s·(f²/2 + z·p(z)), s = f / (2 + f), z = s²
//
//   log1p     f = x·2⁻ᵏ + (2⁻ᵏ − 1), k that of 1 + x, or of the number before it for x > 0: exact for k < 25
//   softplus  log(1 + e^x) = max(x, 0) + log1p(e^−|x|), in float by another p and without k: [0, 1] lies from the pole
//             at −1 as [−¼, ½] does, so that p has no more terms
//
// The series in s, whose argument is small where f is not: Tang, "Table-driven implementation of the logarithm
// function", ACM TOMS 16(4), 1990; in float its division takes longer than the polynomial in f. p: Remez exchange, on
// [−¼, ½] or [0, 1] in f and [0, 0.2²] in z, rounded to T one by one, the rest fitted again.
//
// Largest error in ULP against the true value, subnormal results included:
//   float, all 2^32 inputs      exp 0.996   sigmoid 2.444   tanh 1.933   log 0.951   log1p 0.951   softplus 1.749
//   double, samples             exp 0.993   sigmoid 2.285   tanh 2.111   log 0.890   log1p 0.882   softplus 1.637
// Every result is in the function's range, the limits at ±inf are exact, NaN gives NaN, tanh is odd, tanh and log1p
// keep −0.
#pragma once

#include <array>
#include <cstddef>
#include <limits>

#include "core/fn.h"
#include "core/vector.h"

namespace fusedstep::ISA {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float log2e = 0x1.715476p+0f;
  // ln2 rounded to T, and what that leaves out. n·ln2 cancels against k·x without rounding.
  static constexpr float ln2 = 0x1.62e430p-1f, ln2_rest = -0x1.05c610p-29f;
  // e^x is 0 below exp_min and inf above exp_max.
  static constexpr float exp_min = -104, exp_max = 89;
  static constexpr float exp_none = -88.2f;  // log2 of e^x rounds to −127, and pow2_of_raised gives 0
  // Minimax on [-ln2/2, ln2/2]: r + r²·g(r) is within 2^-33.0 of e^r − 1, relative to e^r.
  static constexpr std::array g = {0x1p-1f,        0x1.555554p-3f,  0x1.5554e2p-5f,
                                   0x1.11129ep-7f, 0x1.6d5530p-10f, 0x1.9f1eb8p-13f};
  // Subnormal numbers are raised before their exponent is read.
  static constexpr int raised = 24;
  // Minimax: log(1 + f) is within 2^-27.6 of itself.
  static constexpr std::array p = {0x1.5555a4p-2f, -0x1.000046p-2f, 0x1.99695ep-3f, -0x1.54ed86p-3f,
                                   0x1.288490p-3f, -0x1.0da51ap-3f, 0x1.ad0ad6p-4f, -0x1.71e7dep-5f};
  // The same on [0, 1]: within 2^-26.9.
  static constexpr std::array p_of_unit = {0x1.55527ep-2f, -0x1.ff7d5cp-3f, 0x1.94f9eap-3f, -0x1.3edbb6p-3f,
                                           0x1.c391acp-4f, -0x1.f3074ep-5f, 0x1.665d4ep-6f, -0x1.e1f04ep-9f};
};

template <>
struct MathConstants<double> {
  static constexpr double log2e = 0x1.71547652b82fep+0;
  static constexpr double ln2 = 0x1.62e42fefa39efp-1, ln2_rest = 0x1.abc9e3b39803fp-56;
  static constexpr double exp_min = -746, exp_max = 710;
  static constexpr double exp_none = -709.2;
  // Minimax on [-ln2/2, ln2/2]: within 2^-60.2, as above.
  static constexpr std::array g = {0x1p-1,
                                   0x1.555555555555bp-3,
                                   0x1.5555555555503p-5,
                                   0x1.111111110ec64p-7,
                                   0x1.6c16c16c30442p-10,
                                   0x1.a01a01b37b8e9p-13,
                                   0x1.a01a01369dc68p-16,
                                   0x1.71ddf02799692p-19,
                                   0x1.27e5b435e6423p-22,
                                   0x1.af6bdbd0ccae6p-26,
                                   0x1.1e3d342c198b1p-29};
  // ln2 in two parts: k times the high one is exact for every exponent k.
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr int raised = 54;
  // Minimax: z·p(z) is within 2^-61.6 of 2·atanh(s)/s − 2.
  static constexpr std::array p = {0x1.555555555554fp-1, 0x1.999999999c174p-2, 0x1.24924921e4d8dp-2,
                                   0x1.c71c748f1bf27p-3, 0x1.745c4b08bfff2p-3, 0x1.3b35ba6571a41p-3,
                                   0x1.0dcc095ca55c5p-3, 0x1.1b7e5b18ef4a1p-3};
};

// From here on σ and tanh are 1 in both types.
inline constexpr int kSigmoidMax = 40, kTanhMax = 20;

// NaN stays in both (max and min look for NaN in either argument, which costs more).
template <class V>
FN V at_least(V x, typename V::Scalar low) {
  return larger(V(low), x);
}
template <class V>
FN V at_most(V x, typename V::Scalar high) {
  return smaller(V(high), x);
}

// kMagic and the integer nearest to a·b, in one rounding.
template <class V>
FN V raised_product(V a, typename V::Scalar b) {
  return fma(a, V(b), V(kMagic<typename V::Scalar>));
}

// c[0] + c[1]·x + …: pairs, then Horner's rule in x², which halves the chain.
template <class V, std::size_t n>
FN V polynomial(V x, const std::array<typename V::Scalar, n>& c) {
  const V x2 = x * x;
  constexpr int last = (int(n) - 1) / 2 * 2;
  V sum(c[last]);
  if constexpr (last + 1 < int(n)) sum = fma(V(c[last + 1]), x, sum);
  for (int i = last - 2; i >= 0; i -= 2) sum = fma(sum, x2, fma(V(c[i + 1]), x, V(c[i])));
  return sum;
}

// k·x = n·ln2 + r and q = e^r − 1, with n + kMagic. `parts` of ln2: one leaves an error of n·ln2_rest in r.
template <int k, int parts, class V>
struct ReducedExp {
  V raised, n, q;
  FN explicit ReducedExp(V x) {
    using T = typename V::Scalar;
    using Constants = MathConstants<T>;
    raised = raised_product(x, k * Constants::log2e);
    n = raised - V(kMagic<T>);
    V r = fma(n, V(-Constants::ln2), V(T(k)) * x);
    if constexpr (parts == 2) r = fma(n, V(-Constants::ln2_rest), r);
    constexpr auto g = Constants::g;  // device code may read the values of a class's array, not the array
    q = fma(r * r, polynomial(r, g), r);
  }
};

template <class V>
FN V exp(V x) {
  using Constants = MathConstants<typename V::Scalar>;
  const ReducedExp<1, 2, V> e(at_least(at_most(x, Constants::exp_max), Constants::exp_min));
  return scaled_successor(e.q, e.raised);
}

// e^−|x|.
template <class V>
FN V decay(V x) {
  const ReducedExp<-1, 2, V> e(at_most(abs(x), -MathConstants<typename V::Scalar>::exp_min));
  return scaled_successor(e.q, e.raised);
}

// e^x of x ≤ 0, where what is less than 2^-126 (2^-1022) may be 0.
template <class V>
FN V exp_of_negative(V x) {
  const ReducedExp<1, 2, V> e(at_least(x, MathConstants<typename V::Scalar>::exp_none));
  const V scale = pow2_of_raised(e.raised);
  return fma(scale, e.q, scale);
}

// Numerator and denominator carry a factor 2^-64: 2ⁿ alone overflows where σ is subnormal.
template <class V>
FN V sigmoid(V x) {
  using T = typename V::Scalar;
  const ReducedExp<-1, 2, V> e(at_least(at_most(x, kSigmoidMax), MathConstants<T>::exp_min));
  const V one = T(0x1p-64), scale = pow2_of_raised<-64>(e.raised);
  return one / fma(scale, e.q, one + scale);
}

// One part of ln2 is enough: n ≤ 0, so that n·ln2_rest counts 2ⁿ times and never reaches ln2_rest.
template <class V>
FN V tanh(V x) {
  using T = typename V::Scalar;
  const ReducedExp<-2, 1, V> e(at_most(abs(x), kTanhMax));
  const V one = T(1), scale = pow2_of_raised(e.raised);
  return copysign(fma(-scale, e.q, one - scale), x) / fma(scale, e.q, one + scale);
}

// log(1 + f) of float, by a p that fits the range of f.
template <class V, std::size_t n>
FN V log_by_series(V f, const std::array<float, n>& p) {
  return fma(-(f * f), fma(-f, polynomial(f, p), V(0.5f)), f);
}
// log(1 + f) + rest of double for ¾ ≤ 1 + f < 1½ and a small rest.
template <class V>
FN V log_of_fraction(V f, V rest) {
  using T = typename V::Scalar;
  const V s = f / (V(T(2)) + f), z = s * s, half_square = V(T(0.5)) * (f * f);
  constexpr auto p = MathConstants<T>::p;
  return f - (half_square - fma(s, half_square + z * polynomial(z, p), rest));
}
// log((1 + f)·2^k) of k in its unit.
template <class V>
FN V log_of_parts(V f, V k) {
  using T = typename V::Scalar;
  using Constants = MathConstants<T>;
  if constexpr (sizeof(T) == 4) {
    constexpr auto p = Constants::p;
    return fma(k, V(Constants::ln2 / kExponentUnit<T>), log_by_series(f, p));
  } else {
    constexpr T high = Constants::ln2_high / kExponentUnit<T>, low = Constants::ln2_low / kExponentUnit<T>;
    return fma(k, V(high), log_of_fraction(f, k * V(low)));
  }
}

// `y` where x is positive and finite; the logarithm's limits elsewhere.
template <class V>
FN V with_log_limits(V x, V y) {
  using T = typename V::Scalar;
  const V inf(std::numeric_limits<T>::infinity()), zero(T(0));
  y = select(x < inf, y, x);  // inf and NaN stay
  y = select(x == zero, -inf, y);
  return select(x < zero, V(std::numeric_limits<T>::quiet_NaN()), y);
}

template <class V>
FN V log(V x) {
  using T = typename V::Scalar;
  using Constants = MathConstants<T>;
  const V zero(T(0));
  const auto subnormal = x < V(std::numeric_limits<T>::min());
  const V normal = select(subnormal, x * V(T(1ull << Constants::raised)), x);
  V k;
  const auto bits = exponent(abs(normal), k);
  const V f = from_bits<V>(to_bits(normal) - bits) - V(T(1));
  return with_log_limits(x, log_of_parts(f, k - select(subnormal, V(Constants::raised * kExponentUnit<T>), zero)));
}

// log(1 + x) of u = |1 + x|, rounded, positive and finite; of x > 0 the number before it, whose k leaves f exact where
// u was rounded up to the end of [¾, 1½). 2⁻ᵏ is −inf for the largest exponent: 0 does as well.
template <class V>
FN V log_of_successor(V x, V u) {
  using T = typename V::Scalar;
  const V one(T(1));
  V k;
  const auto bits = exponent(u, k);
  const V scale = at_least(from_bits<V>(to_bits(one) - bits), T(0));
  return log_of_parts(from_bits<V>(to_bits(x) - bits) + (scale - one), k);
}

template <class V>
FN V log1p(V x) {
  const V one(typename V::Scalar(1)), u = one + x;
  const auto one_less = ~(to_bits(x) >> int(8 * sizeof(typename V::Scalar) - 1));  // −1 where x > 0
  return select(u == one, x, with_log_limits(u, log_of_successor(x, from_bits<V>(to_bits(abs(u)) + one_less))));
}

// The same for x that are not negative; −0 gives 0.
template <class V>
FN V log1p_of_positive(V x) {
  using T = typename V::Scalar;
  const V u = V(T(1)) + x;
  const V before = from_bits<V>(to_bits(u) - 1);
  return select(u < V(std::numeric_limits<T>::infinity()), log_of_successor(x, before), u);
}

// The same for x in [0, 1], where double has a k of 0 or 1.
template <class V>
FN V log1p_of_unit(V x) {
  using T = typename V::Scalar;
  using Constants = MathConstants<T>;
  if constexpr (sizeof(T) == 4) {
    constexpr auto p = Constants::p_of_unit;
    return log_by_series(x, p);
  } else {
    const V half(T(0.5)), zero(T(0));
    const auto small = x < half;
    const V f = select(small, x, fma(x, half, -half));
    return select(small, zero, V(Constants::ln2_high)) + log_of_fraction(f, select(small, zero, V(Constants::ln2_low)));
  }
}

template <class V>
FN V softplus(V x) {
  using T = typename V::Scalar;
  return at_least(x, T(0)) + log1p_of_unit(decay(x));
}

}  // namespace fusedstep::ISA
