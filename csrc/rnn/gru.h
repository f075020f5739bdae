// GRU, both kinds, and the first with layer normalisation: gate mathematics of one step, forward and backward.
//
//   r, z = σ(W_i·x + b_i + W_h·h + b_h)
//   reset after:   n = tanh(W_in·x + b_in + r·(W_hn·h + b_hn))        torch, cuDNN
//   reset before:  n = tanh(W_in·x + b_in + W_hn·(r·h) + b_hn)        Cho et al. 2014, eq. 5–8
//   normalised:    reset after, with γ·N(W·x) + b in place of W·x + b, and likewise of h; N is over r and z jointly,
//   and
//                  over n                                             Ba, Kiros & Hinton 2016, supplement
//   h′ = (1−z)·n + z·h
//
// The products and biases, or their normalised forms, are done when these functions are called. Reset-before needs a
// second product, W_hn·(r·h), once every r is known: `reset` closes the first stage and gives r·h.
#pragma once

#include <type_traits>

#include "core/fn.h"
#include "core/math.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

// What both kinds share. Accumulators and saved values start r, z, n.
template <class T>
struct GRUBase {
  using Scalar = T;
  static constexpr int gates = 3, states = 1, peepholes = 0;
  static constexpr bool can_project = false;  // h′ mixes h itself, unit by unit
  using InputGates = Gates<0, 0, 1, 2>;

  template <class V>
  FN static V mix(V z, V n, V h) {
    return fma(V(T(1)) - z, n, z * h);
  }
  // Gradients of z's and n's preactivations, and of h where it does not pass through a product.
  template <class V>
  FN static void mix_backward(const V* a, V h, V& dh, V& dz, V& dn) {
    const V one(T(1)), z = a[1], n = a[2];
    dz = dh * (h - n) * (z * (one - z));
    dn = dh * (one - z) * (one - n * n);
    dh = dh * z;
  }
};

template <class T, bool normalized>
struct GRUResetAfter : GRUBase<T> {
  static constexpr const char* name = normalized ? "layer_norm_gru" : "gru";
  static constexpr bool layer_norm = normalized;
  static constexpr int accumulators = normalized ? 6 : 4;                 // r, z, W_in·x + b_in, W_hn·h + b_hn
  static constexpr int values = 4;                                        // r, z, n, W_hn·h + b_hn
  static constexpr int saved = values + (normalized ? accumulators : 0);  // with what was normalised
  static constexpr Norm norms[4] = {{0, 2}, {2, 1}, {3, 2}, {5, 1}};
  using StateGates = std::conditional_t<normalized, Gates<0, 3, 4, 5>, Gates<0, 0, 1, 3>>;
  using LateGates = NoGates;
  static constexpr bool separate_state_gradients = true;  // n's differs: it passes r
  static constexpr int state_slot[] = {0, 1, 3};

  template <class V>
  FN static void forward(V* a, V* s, const V*) {
    if constexpr (normalized) {
      a[0] = a[0] + a[3];
      a[1] = a[1] + a[4];
      a[3] = a[5];
    }
    a[0] = sigmoid(a[0]);
    a[1] = sigmoid(a[1]);
    a[2] = tanh(fma(a[0], a[3], a[2]));
    s[0] = GRUBase<T>::mix(a[1], a[2], s[0]);
  }

  template <class V>
  FN static void backward(const V* a, const V* s, const V*, V* ds, const V*, V* da, V* da_state) {
    const V r = a[0];
    GRUBase<T>::mix_backward(a, s[0], ds[0], da[1], da[2]);
    da[0] = da[2] * a[3] * (r * (V(T(1)) - r));
    da_state[0] = da[0];
    da_state[1] = da[1];
    da_state[2] = da[2] * r;
  }
};

template <class T>
using GRU = GRUResetAfter<T, false>;
template <class T>
using LayerNormGRU = GRUResetAfter<T, true>;

template <class T>
struct GRUResetBefore : GRUBase<T> {
  static constexpr const char* name = "gru_reset_before";
  static constexpr bool layer_norm = false;
  static constexpr int accumulators = 3;  // r, z, n
  static constexpr int values = 3, saved = values;
  using StateGates = Gates<0, 0, 1>;
  using LateGates = Gates<2, 2>;
  static constexpr bool separate_state_gradients = false;
  static constexpr int state_slot[] = {0, 1, 2};

  // The first stage's end: r and z; gives r·h, which the second product multiplies.
  template <class V>
  FN static V reset(V* a, V h) {
    a[0] = sigmoid(a[0]);
    a[1] = sigmoid(a[1]);
    return a[0] * h;
  }
  template <class V>
  FN static void forward(V* a, V* s, const V*) {
    a[2] = tanh(a[2]);
    s[0] = GRUBase<T>::mix(a[1], a[2], s[0]);
  }

  // r's gradient waits for the product W_hnᵀ·dn = d(r·h): `reset_backward` gives it.
  template <class V>
  FN static void backward(const V* a, const V* s, const V*, V* ds, const V*, V* da, V*) {
    GRUBase<T>::mix_backward(a, s[0], ds[0], da[1], da[2]);
    da[0] = V(T(0));
  }
  template <class V>
  FN static void reset_backward(V r, V h, V drh, V& dr, V& dh) {
    dr = drh * h * (r * (V(T(1)) - r));
    dh = fma(drh, r, dh);
  }
};

}  // namespace fusedstep::ISA
