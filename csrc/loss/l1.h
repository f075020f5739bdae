// Absolute error, torch's l1_loss.
//   l = |x − t|        dl/dx = sign(x − t), 0 at 0
#pragma once

#include "core/fn.h"

namespace fusedstep::ISA {

// −1, 0 or 1; NaN stays.
template <class V>
FN V sign(V d) {
  const V zero(typename V::Scalar(0)), one(typename V::Scalar(1));
  return select(d == zero, zero, select(d == d, copysign(one, d), d));
}

template <class T>
struct L1 {
  static constexpr auto name = "l1";
  static constexpr auto hyper = "";
  static constexpr bool pos_weight = false;

  static L1 prepare(const double*) { return {}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const V d = x - t;
    loss = abs(d);
    grad = sign(d);
  }
};

}  // namespace fusedstep::ISA
