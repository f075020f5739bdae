// Adam, with decoupled (AdamW) or coupled weight decay, and its AMSGrad variant.
//
//   p ← keep·p                                   decoupled decay: keep = 1 − lr·λ (Loshchilov & Hutter, Algorithm 2)
//   g ← g + λ·p                                  coupled decay
//   m ← m + (1−β₁)(g−m)      v ← β₂v + (1−β₂)g²
//   AMSGrad: v̂ ← max(v̂, v), used in v's place     (Reddi et al. 2018, Algorithm 2, on the raw v as torch)
//   p ← p − step·m / (√v·inv_sqrt_bc2 + ε)       step = lr/(1−β₁ᵗ), inv_sqrt_bc2 = 1/√(1−β₂ᵗ)
//
// Kingma & Ba 2015, Algorithm 1; Loshchilov & Hutter 2019; Reddi, Kale & Kumar 2018.
// 1−β is rounded from double, not computed from a rounded β (that costs 1.6e-5 in v over 2000 steps, against 3e-7).
// Where 1−β₁ ≥ ½, m ← g − β₁(g−m), as torch's lerp.
#pragma once

#include <cmath>

#include "core/fn.h"
#include "core/power.h"

namespace fusedstep::ISA {

template <class T>
struct Adam {
  static constexpr const char* name = "adam";
  static constexpr const char* hyper = "lr beta1 beta2 eps weight_decay decoupled";
  static constexpr int states = 2;  // m, v

  T beta1, one_minus_beta1, beta2, one_minus_beta2, step, inv_sqrt_bc2, eps, weight_decay, keep;

  FN static Adam<double> prepare(const double* h, double t) {
    const double lr = h[0], beta1 = h[1], beta2 = h[2], eps = h[3], weight_decay = h[4];
    const bool decoupled = h[5] != 0;
    return {.beta1 = beta1,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .step = lr / (1 - power(beta1, t)),
            .inv_sqrt_bc2 = 1 / std::sqrt(1 - power(beta2, t)),
            .eps = eps,
            .weight_decay = decoupled ? 0 : weight_decay,
            .keep = decoupled ? 1 - lr * weight_decay : 1};
  }

  template <class V>
  FN void moments(V& p, V& g, V& m, V& v) const {
    p = p * V(keep);
    if (weight_decay != 0) g = g + V(weight_decay) * p;
    const V d = g - m;
    m = one_minus_beta1 < T(0.5) ? m + V(one_minus_beta1) * d : g - V(beta1) * d;
    v = V(beta2) * v + V(one_minus_beta2) * g * g;
  }
  template <class V>
  FN void descend(V& p, V m, V v) const {
    p = p - V(step) * m / (sqrt(v) * V(inv_sqrt_bc2) + V(eps));
  }

  template <class V>
  FN void operator()(V& p, V g, V& m, V& v) const {
    moments(p, g, m, v);
    descend(p, m, v);
  }
};

template <class T>
struct AMSGrad : Adam<T> {
  static constexpr const char* name = "amsgrad";
  static constexpr int states = 3;  // m, v, largest v

  template <class V>
  FN void operator()(V& p, V g, V& m, V& v, V& largest) const {
    this->moments(p, g, m, v);
    largest = max(largest, v);
    this->descend(p, m, largest);
  }
};

}  // namespace fusedstep::ISA
