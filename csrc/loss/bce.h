// Binary cross entropy of a logit x against a probability t, torch's binary_cross_entropy_with_logits.
//   l = (1 − t)·softplus(x) + w·t·softplus(−x)        dl/dx = (1 − t)·σ(x) − w·t·σ(−x)
// w weighs the positive class. Terms of one sign, so that nothing cancels where t is 0 or 1, and nothing overflows:
// softplus(±x) = max(±x, 0) + log1p(e), σ(±x) = 1/(1 + e) or e/(1 + e), with e = e^−|x|.
#pragma once

#include "core/fn.h"
#include "core/math.h"

namespace fusedstep::ISA {

// softplus and σ of x and of −x.
template <class V>
struct Logit {
  V plus, minus, up, down;

  FN explicit Logit(V x) {
    using T = typename V::Scalar;
    const V one(T(1)), e = decay(x), l = log1p_of_unit(e), high = one / (one + e), low = e * high;
    plus = at_least(x, T(0)) + l;
    minus = at_least(-x, T(0)) + l;
    up = select(x < V(T(0)), low, high);
    down = select(x < V(T(0)), high, low);
  }
};

template <class T>
struct BCEWithLogits {
  static constexpr auto name = "binary_cross_entropy_with_logits";
  static constexpr auto hyper = "";
  static constexpr bool pos_weight = true;

  static BCEWithLogits prepare(const double*) { return {}; }

  template <class V>
  FN void operator()(V x, V t, V w, V& loss, V& grad) const {
    const Logit<V> logit(x);
    const V negative = V(T(1)) - t, positive = w * t;
    loss = negative * logit.plus + positive * logit.minus;
    grad = negative * logit.up - positive * logit.down;
  }
};

}  // namespace fusedstep::ISA
