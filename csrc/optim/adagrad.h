// Adagrad, with coupled weight decay and a learning rate that decays with the step count.
//
//   g ← g + λ·p      s ← s + g²      p ← p − clr·g / (√s + ε)      clr = lr/(1 + (t−1)·lr_decay)
//
// Duchi, Hazan & Singer 2011, the diagonal form; ε outside the root and clr as torch.
#pragma once

#include "core/fn.h"

namespace fusedstep::ISA {

template <class T>
struct Adagrad {
  static constexpr const char* name = "adagrad";
  static constexpr const char* hyper = "lr lr_decay weight_decay eps";
  static constexpr int states = 1;  // s

  T clr, weight_decay, eps;

  FN static Adagrad<double> prepare(const double* h, double t) {
    return {.clr = h[0] / (1 + (t - 1) * h[1]), .weight_decay = h[2], .eps = h[3]};
  }

  template <class V>
  FN void operator()(V& p, V g, V& sum) const {
    if (weight_decay != 0) g = g + V(weight_decay) * p;
    sum = sum + g * g;
    p = p - V(clr) * (g / (sqrt(sum) + V(eps)));
  }
};

}  // namespace fusedstep::ISA
