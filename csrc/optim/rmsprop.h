// RMSprop, optionally centered, optionally with momentum, coupled weight decay.
//
//   g ← g + λ·p
//   v ← αv + (1−α)g²
//   centered:  ḡ ← ḡ + (1−α)(g−ḡ)    avg = √max(v − ḡ², 0) + ε      (Graves 2013, §4.2; torch does not clamp)
//   otherwise:                        avg = √v + ε
//   momentum:  b ← μb + g/avg         p ← p − lr·b
//   otherwise:                        p ← p − lr·g/avg
//
// Tieleman & Hinton, Lecture 6.5, 2012. ε outside the root and lr applied at the end, as torch. A NaN in v − ḡ² stays.
// Where 1−α ≥ ½, ḡ ← g − α(g−ḡ), as torch's lerp.
#pragma once

#include "core/fn.h"

namespace fusedstep::ISA {

template <class T>
struct RMSprop {
  static constexpr const char* name = "rmsprop";
  static constexpr const char* hyper = "lr alpha eps weight_decay momentum";
  static constexpr int states = 1;  // v

  T lr, alpha, one_minus_alpha, eps, weight_decay, momentum;

  FN static RMSprop<double> prepare(const double* h, double) {
    return {
        .lr = h[0], .alpha = h[1], .one_minus_alpha = 1 - h[1], .eps = h[2], .weight_decay = h[3], .momentum = h[4]};
  }

  template <class V>
  FN void decay(V p, V& g, V& v) const {
    if (weight_decay != 0) g = g + V(weight_decay) * p;
    v = V(alpha) * v + V(one_minus_alpha) * g * g;
  }
  template <class V>
  FN V average(V v) const {
    return sqrt(v) + V(eps);
  }
  template <class V>
  FN V centered_average(V g, V v, V& mean) const {
    const V d = g - mean;
    mean = one_minus_alpha < T(0.5) ? mean + V(one_minus_alpha) * d : g - V(alpha) * d;
    return sqrt(max(v - mean * mean, V(T(0)))) + V(eps);
  }
  template <class V>
  FN void descend(V& p, V g, V average) const {
    p = p - V(lr) * (g / average);
  }
  template <class V>
  FN void descend(V& p, V g, V average, V& buffer) const {
    buffer = V(momentum) * buffer + g / average;
    p = p - V(lr) * buffer;
  }

  template <class V>
  FN void operator()(V& p, V g, V& v) const {
    decay(p, g, v);
    descend(p, g, average(v));
  }
};

template <class T>
struct RMSpropMomentum : RMSprop<T> {
  static constexpr const char* name = "rmsprop_momentum";
  static constexpr int states = 2;  // v, b

  template <class V>
  FN void operator()(V& p, V g, V& v, V& buffer) const {
    this->decay(p, g, v);
    this->descend(p, g, this->average(v), buffer);
  }
};

template <class T>
struct RMSpropCentered : RMSprop<T> {
  static constexpr const char* name = "rmsprop_centered";
  static constexpr int states = 2;  // v, ḡ

  template <class V>
  FN void operator()(V& p, V g, V& v, V& mean) const {
    this->decay(p, g, v);
    this->descend(p, g, this->centered_average(g, v, mean));
  }
};

template <class T>
struct RMSpropCenteredMomentum : RMSprop<T> {
  static constexpr const char* name = "rmsprop_centered_momentum";
  static constexpr int states = 3;  // v, ḡ, b

  template <class V>
  FN void operator()(V& p, V g, V& v, V& mean, V& buffer) const {
    this->decay(p, g, v);
    this->descend(p, g, this->centered_average(g, v, mean), buffer);
  }
};

}  // namespace fusedstep::ISA
