// Hinge loss of a score x against a class t of −1 or 1: Cortes and Vapnik, "Support-vector networks", 1995.
//   l = max(0, margin − t·x)        dl/dx = −t where l > 0
// Squared: l² and −2·t·l.
#pragma once

#include "core/fn.h"
#include "core/math.h"

namespace fusedstep::ISA {

template <class T>
struct Hinge {
  static constexpr auto name = "hinge";
  static constexpr auto hyper = "margin squared";
  static constexpr bool pos_weight = false;

  T margin, squared;

  static Hinge prepare(const double* hyper) { return {T(hyper[0]), T(hyper[1])}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const V zero(T(0)), l = at_least(V(margin) - t * x, T(0));
    loss = squared != 0 ? l * l : l;
    grad = squared != 0 ? -(t * (l + l)) : select(l == zero, zero, select(l == l, -t, l));
  }
};

}  // namespace fusedstep::ISA
