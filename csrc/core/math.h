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
//   x = 2ᵏ·(1 + f), √½ ≤ 1 + f < √2        s = f / (2 + f)        log(1 + f) = 2·atanh(s) = f − f²/2 + s·(f²/2 +
//   z·p(z)) z = s², p a polynomial                                        log(x) = k·ln2 + log(1 + f)
//
//   log1p     log(1 + x) = log(u) + c/u, where u + c = 1 + x without rounding
//   softplus  log(1 + e^x) = max(x, 0) + log1p(e^−|x|)
//
// The series in s, whose argument is small where f is not: Tang, "Table-driven implementation of the logarithm
// function", ACM TOMS 16(4), 1990. p: Remez exchange on [0, 0.1716²], rounded to T.
//
// Largest error in ULP against the true value, subnormal results included:
//   float, all 2^32 inputs      exp 0.996   sigmoid 2.444   tanh 1.933   log 0.840   log1p 0.840   softplus 1.665
//   double, samples             exp 0.993   sigmoid 2.285   tanh 2.111   log 0.839   log1p 0.820   softplus 1.637
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
  // ln2 in two parts: k times the high one is exact for every exponent k.
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  // Subnormal numbers are raised before their exponent is read.
  static constexpr int raised = 24;
  // Minimax: z·p(z) is within 2^-29.2 of 2·atanh(s)/s − 2.
  static constexpr std::array p = {0x1.55557ap-1f, 0x1.995eb4p-2f, 0x1.31e3a6p-2f};
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
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr int raised = 54;
  // Minimax: within 2^-58.4, as above.
  static constexpr std::array p = {0x1.5555555555592p-1, 0x1.999999997fd33p-2, 0x1.24924941f905ap-2,
                                   0x1.c71c52028b2afp-3, 0x1.7466406370087p-3, 0x1.39a19281d8ec4p-3,
                                   0x1.2f070c2a0ca22p-3};
};

// From here on σ and tanh are 1 in both types.
inline constexpr int kSigmoidMax = 40, kTanhMax = 20;

// NaN stays in both (max and min of simd.h look for NaN in either argument, which costs twice as much).
template <class V>
FN V at_least(V x, typename V::Scalar low) {
  return select(x < V(low), V(low), x);
}
template <class V>
FN V at_most(V x, typename V::Scalar high) {
  return select(x > V(high), V(high), x);
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

// 2ⁿ in two factors: where e^x is subnormal the last product is the only rounding at its size.
template <class V>
FN V exp(V x) {
  using Constants = MathConstants<typename V::Scalar>;
  const ReducedExp<1, 2, V> e(at_least(at_most(x, Constants::exp_max), Constants::exp_min));
  const V half = raised_product(e.n, 0.5), m = half - V(kMagic<typename V::Scalar>), scale = pow2_of_raised(half);
  return fma(scale, e.q, scale) * pow2(e.n - m);
}

// e^x of x ≤ 0, where what is less than 2^-126 (2^-1022) may be 0: three fifths of the work.
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

// log((1 + f)·2^k) + rest for a small rest, √½ ≤ 1 + f < √2.
template <class V>
FN V log_of_parts(V f, V k, V rest) {
  using T = typename V::Scalar;
  using Constants = MathConstants<T>;
  const V s = f / (V(T(2)) + f), z = s * s, half_square = V(T(0.5)) * f * f;
  constexpr auto p = Constants::p;
  const V low = fma(s, half_square + z * polynomial(z, p), fma(k, V(Constants::ln2_low), rest));
  return fma(k, V(Constants::ln2_high), f - (half_square - low));
}

// log(u + c) for positive u that are normal and finite, c less than an ULP of u.
template <class V>
FN V log_of_sum(V u, V c) {
  V k;
  const V f = split(u, k) - V(typename V::Scalar(1));
  return log_of_parts(f, k, c / u);
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
  const V f = split(normal, k) - V(T(1));
  return with_log_limits(x, log_of_parts(f, k - select(subnormal, V(T(Constants::raised)), zero), zero));
}

// What 1 + x, rounded to u, leaves out: Knuth, "The Art of Computer Programming" 2, section 4.2.2, theorem B.
template <class V>
FN V rest_of_successor(V x, V u) {
  const V one(typename V::Scalar(1)), b = u - one;
  return (one - (u - b)) + (x - b);
}

template <class V>
FN V log1p(V x) {
  const V one(typename V::Scalar(1)), u = one + x;
  return select(u == one, x, with_log_limits(u, log_of_sum(u, rest_of_successor(x, u))));
}

// The same for x that are not negative; −0 gives 0.
template <class V>
FN V log1p_of_positive(V x) {
  using T = typename V::Scalar;
  const V u = V(T(1)) + x;
  return select(u < V(std::numeric_limits<T>::infinity()), log_of_sum(u, rest_of_successor(x, u)), u);
}

// The same for x in [0, 1]. NaN gives anything.
template <class V>
FN V log1p_of_unit(V x) {
  const V one(typename V::Scalar(1)), u = one + x;
  return log_of_sum(u, x - (u - one));
}

template <class V>
FN V softplus(V x) {
  using T = typename V::Scalar;
  return at_least(x, T(0)) + log1p_of_unit(exp(-abs(x)));
}

}  // namespace fusedstep::ISA
