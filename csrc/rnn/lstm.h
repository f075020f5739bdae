// LSTM, with optional peepholes: gate mathematics of one step, forward and backward.
//
//   i, f, g, o = preactivations = W_ih·x + W_hh·h + b            peephole: i += w_i·c   f += w_f·c   o += w_o·c′
//   c′ = σ(f)·c + σ(i)·tanh(g)          h′ = σ(o)·tanh(c′)
//
// Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 (forget gate); Gers & Schmidhuber 2000 (peepholes, in
// the order i f o, with o seeing c′). The products and biases are done when these functions are called.
#pragma once

#include "core/fn.h"
#include "core/math.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

template <class T, bool has_peepholes>
struct LSTMCell {
  using Scalar = T;
  static constexpr const char* name = has_peepholes ? "peephole_lstm" : "lstm";
  static constexpr int gates = 4, accumulators = 4, states = 2, peepholes = has_peepholes ? 3 : 0;
  static constexpr int saved = 4;  // i, f, g, o after their nonlinearities
  using InputGates = Gates<0, 0, 1, 2, 3>;
  using StateGates = Gates<0, 0, 1, 2, 3>;
  using LateGates = NoGates;
  static constexpr bool separate_state_gradients = false;
  static constexpr int state_slot[] = {0, 1, 2, 3};  // where, among the saved values, a gate's gradient by W_hh goes

  // In: a = preactivations, s = {h, c}. Out: a = what backward needs, s = {h′, c′}.
  template <class V>
  FN static void forward(V* a, V* s, const V* w) {
    if constexpr (has_peepholes) {
      a[0] = fma(w[0], s[1], a[0]);
      a[1] = fma(w[1], s[1], a[1]);
    }
    a[0] = sigmoid(a[0]);
    a[1] = sigmoid(a[1]);
    a[2] = tanh(a[2]);
    const V c = fma(a[1], s[1], a[0] * a[2]);
    if constexpr (has_peepholes) a[3] = fma(w[2], c, a[3]);
    a[3] = sigmoid(a[3]);
    s[0] = a[3] * tanh(c);
    s[1] = c;
  }

  // In: a as saved, s = {h, c}, next = {h′, c′}, ds = gradients of next.
  // Out: da = gradients of the preactivations, ds = gradients of s that do not pass through W_hh.
  template <class V>
  FN static void backward(const V* a, const V* s, const V* next, V* ds, const V* w, V* da, V*) {
    const V one(T(1)), i = a[0], f = a[1], g = a[2], o = a[3];
    const V t = tanh(next[1]);
    da[3] = ds[0] * t * (o * (one - o));
    V dc = fma(ds[0] * o, one - t * t, ds[1]);
    if constexpr (has_peepholes) dc = fma(da[3], w[2], dc);
    da[0] = dc * g * (i * (one - i));
    da[1] = dc * s[1] * (f * (one - f));
    da[2] = dc * i * (one - g * g);
    ds[0] = V(T(0));
    ds[1] = dc * f;
    if constexpr (has_peepholes) ds[1] = fma(da[1], w[1], fma(da[0], w[0], ds[1]));
  }

  // The terms whose sums over the batch are the peepholes' gradients are da[gate] × state.
  static constexpr int peephole_gate[] = {0, 1, 3};
  static constexpr bool peephole_sees_next[] = {false, false, true};
};

template <class T>
using LSTM = LSTMCell<T, false>;
template <class T>
using PeepholeLSTM = LSTMCell<T, true>;

}  // namespace fusedstep::ISA
