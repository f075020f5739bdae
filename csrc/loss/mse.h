// Squared error, torch's mse_loss.
//   l = (x − t)²        dl/dx = 2(x − t)
#pragma once

#include "core/fn.h"

namespace fusedstep::ISA {

template <class T>
struct MSE {
  static constexpr auto name = "mse";
  static constexpr auto hyper = "";
  static constexpr bool pos_weight = false;

  static MSE prepare(const double*) { return {}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const V d = x - t;
    loss = d * d;
    grad = d + d;
  }
};

}  // namespace fusedstep::ISA
