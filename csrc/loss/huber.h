// Quadratic near 0, linear beyond: Huber, "Robust estimation of a location parameter", Annals of Mathematical
// Statistics 35(1), 1964. With c = clamp(x − t, −δ, δ) both pieces are one formula:
//   Huber      l = c·((x − t) − c/2)        dl/dx = c
//   smooth L1  the same over β = δ (Girshick, "Fast R-CNN", 2015); at β = 0 the absolute error
#pragma once

#include "core/fn.h"
#include "loss/l1.h"

namespace fusedstep::ISA {

template <class V>
FN V clamp(V d, V delta) {
  return select(d < -delta, -delta, select(d > delta, delta, d));
}

template <class T>
struct Huber {
  static constexpr auto name = "huber";
  static constexpr auto hyper = "delta";
  static constexpr bool pos_weight = false;

  T delta;

  static Huber prepare(const double* hyper) { return {T(hyper[0])}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const V d = x - t, c = clamp(d, V(delta));
    loss = c * (d - V(T(0.5)) * c);
    grad = c;
  }
};

template <class T>
struct SmoothL1 {
  static constexpr auto name = "smooth_l1";
  static constexpr auto hyper = "beta";
  static constexpr bool pos_weight = false;

  T beta;

  static SmoothL1 prepare(const double* hyper) { return {T(hyper[0])}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const V d = x - t, b(beta);
    if (beta == 0) {
      loss = abs(d);
      grad = sign(d);
      return;
    }
    const V r = clamp(d / b, V(T(1)));
    loss = r * (d - V(T(0.5)) * b * r);
    grad = r;
  }
};

}  // namespace fusedstep::ISA
