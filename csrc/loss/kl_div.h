// Kullback-Leibler divergence of a log-probability x from a probability t, torch's kl_div.
//   l = t·(log t − x), 0 where t is 0        dl/dx = −t
// log_target: t is given by its logarithm.
#pragma once

#include "core/fn.h"
#include "core/math.h"

namespace fusedstep::ISA {

template <class T>
struct KLDiv {
  static constexpr auto name = "kl_div";
  static constexpr auto hyper = "log_target";
  static constexpr bool pos_weight = false;

  T log_target;

  static KLDiv prepare(const double* hyper) { return {T(hyper[0])}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const V zero(T(0));
    const V p = log_target != 0 ? exp(t) : t, logarithm = log_target != 0 ? t : log(t);
    loss = select(p == zero, zero, p * (logarithm - x));
    grad = -p;
  }
};

}  // namespace fusedstep::ISA
