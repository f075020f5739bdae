// Focal loss of a logit x: Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection", ICCV 2017,
// eq. 5; torchvision's sigmoid_focal_loss. With p = σ(x), the cross entropy b of p against t, and q = 1 − p_t,
//   l = a·q^γ·b        dl/dx = a·q^γ·(b′ + γ·b·q′/q)        a = α·t + (1 − α)(1 − t), or 1 without α
//   q = (1 − t)·p + t·(1 − p)        q′ = (1 − 2t)·p(1 − p)        b′ = (1 − t)·p − t·(1 − p)
// q is 0 only where p(1 − p) is: the factor that follows is then 0 by its limit.
#pragma once

#include "core/fn.h"
#include "core/math.h"
#include "loss/bce.h"

namespace fusedstep::ISA {

template <class T>
struct Focal {
  static constexpr auto name = "focal";
  static constexpr auto hyper = "a0 a1 gamma";  // a where t is 0 and where it is 1
  static constexpr bool pos_weight = false;

  T a0, a1, gamma;

  static Focal prepare(const double* hyper) { return {T(hyper[0]), T(hyper[1]), T(hyper[2])}; }

  template <class V>
  FN void operator()(V x, V t, V, V& loss, V& grad) const {
    const Logit<V> logit(x);
    const V zero(T(0)), one(T(1)), g(gamma), negative = one - t;
    const V q = negative * logit.up + t * logit.down;
    const V b = negative * logit.plus + t * logit.minus, slope = negative * logit.up - t * logit.down;
    const V power = gamma == 0 ? one : exp(g * log(q));
    const V bend = select(q == zero, zero, (negative - t) * (logit.up * logit.down) / q);
    const V factor = (negative * V(a0) + t * V(a1)) * power;
    loss = factor * b;
    grad = factor * (slope + g * b * bend);
  }
};

}  // namespace fusedstep::ISA
