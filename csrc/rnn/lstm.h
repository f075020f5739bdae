// LSTM, with optional peepholes and coupled gates, or with layer normalisation: gate mathematics of one step, forward
// and backward.
//
//   i, f, g, o = preactivations = W_ih·x + W_hh·h + b            peephole: i += w_i·c   f += w_f·c   o += w_o·c′
//   c′ = σ(f)·c + σ(i)·tanh(g)          h′ = σ(o)·tanh(c′)
//   coupled: no i of its own, c′ = σ(f)·c + (1 − σ(f))·tanh(g)
//   projected, of sequences: h′ = W_hr·m, m = σ(o)·tanh(c′)
//   normalised: preactivations = γ_ih·N(W_ih·x) + b_ih + γ_hh·N(W_hh·h) + b_hh       h′ = σ(o)·tanh(γ_c·N(c′) + b_c)
//
// Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 (forget gate); Gers & Schmidhuber 2000 (peepholes, in
// the order i f o, with o seeing c′); Sak, Senior & Beaufays 2014 (projection); Greff et al. 2017 (coupled);
// Ba, Kiros & Hinton 2016, eq. 20–22 (normalised). The products and biases, or both halves of the normalised
// preactivations, are done when these functions are called.
#pragma once

#include <type_traits>

#include "core/fn.h"
#include "core/math.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

template <class T, bool has_peepholes, bool coupled, bool normalized = false>
struct LSTMCell {
  using Scalar = T;
  static constexpr const char* name = normalized ? "layer_norm_lstm"
                                      : coupled  ? (has_peepholes ? "coupled_peephole_lstm" : "coupled_lstm")
                                                 : (has_peepholes ? "peephole_lstm" : "lstm");
  static constexpr bool layer_norm = normalized;
  static constexpr int F = coupled ? 0 : 1, C = F + 1, O = F + 2;  // where f, g and o are
  static constexpr int gates = O + 1, states = 2, peepholes = has_peepholes ? F + 2 : 0;
  static constexpr int accumulators = normalized ? 2 * gates : gates;
  static constexpr int values = gates;                                    // (i,) f, g, o after their nonlinearities
  static constexpr int saved = values + (normalized ? accumulators : 0);  // with what was normalised
  static constexpr Norm norms[2] = {{0, gates}, {gates, gates}};          // of the accumulators; then c′'s
  static constexpr bool can_project = !normalized;                        // h enters by its product with W_hh alone
  using InputGates = std::conditional_t<coupled, Gates<0, 0, 1, 2>, Gates<0, 0, 1, 2, 3>>;
  using StateGates = std::conditional_t<normalized, Gates<0, 4, 5, 6, 7>, InputGates>;
  using LateGates = NoGates;
  static constexpr bool separate_state_gradients = false;
  static constexpr int state_slot[] = {0, 1, 2, 3};  // where, among the saved values, a gate's gradient by W_hh goes

  // In: a = preactivations, s = {h, c}. Out: a = what backward needs, s = {h′, c′}; normalised, h′ waits for `output`.
  template <class V>
  FN static void forward(V* a, V* s, const V* w) {
    if constexpr (normalized)
      for (int j = 0; j < gates; ++j) a[j] = a[j] + a[gates + j];
    for (int j = 0; j <= F; ++j) {  // i and f
      if constexpr (has_peepholes) a[j] = fma(w[j], s[1], a[j]);
      a[j] = sigmoid(a[j]);
    }
    a[C] = tanh(a[C]);
    const V c = next_c(a, s);
    if constexpr (has_peepholes) a[O] = fma(w[F + 1], c, a[O]);
    a[O] = sigmoid(a[O]);
    if constexpr (!normalized) s[0] = output(a[O], c);
    s[1] = c;
  }
  // h′ of o and c′, or what c′ became.
  template <class V>
  FN static V output(V o, V c) {
    return o * tanh(c);
  }
  // c′ of the gates and s = {h, c}.
  template <class V>
  FN static V next_c(const V* a, const V* s) {
    return fma(a[F], s[1], input_gate(a) * a[C]);
  }

  // The gradient of o's preactivation, and dc with what of dh passed `output`.
  template <class V>
  FN static void output_backward(V o, V c, V dh, V& d_o, V& dc) {
    const V one(T(1)), t = tanh(c);
    d_o = dh * t * (o * (one - o));
    dc = fma(dh * o, one - t * t, dc);
  }

  // In: a as saved, s = {h, c}, next = {h′, c′}, ds = gradients of next. Normalised, `output_backward` comes first:
  // a[O] is o's gradient, and ds[1] whole. Out: da = gradients of the preactivations, ds = gradients of s that do not
  // pass through W_hh.
  template <class V>
  FN static void backward(const V* a, const V* s, const V* next, V* ds, const V* w, V* da, V*) {
    const V one(T(1)), i = input_gate(a), f = a[F], g = a[C];
    V dc = ds[1];
    if constexpr (normalized)
      da[O] = a[O];
    else
      output_backward(a[O], next[1], ds[0], da[O], dc);
    if constexpr (has_peepholes) dc = fma(da[O], w[F + 1], dc);
    if constexpr (!coupled) da[0] = dc * g * (i * (one - i));
    da[F] = dc * (coupled ? s[1] - g : s[1]) * (f * (one - f));
    da[C] = dc * i * (one - g * g);
    ds[0] = V(T(0));
    ds[1] = dc * f;
    if constexpr (has_peepholes)
      for (int j = 0; j <= F; ++j) ds[1] = fma(da[j], w[j], ds[1]);
  }

  // The terms whose sums over the batch are the peepholes' gradients are da[gate] × state.
  static constexpr int peephole_gate[] = {0, coupled ? O : 1, O};
  static constexpr bool peephole_sees_next[] = {false, coupled, true};

 private:
  template <class V>
  FN static V input_gate(const V* a) {
    return coupled ? V(T(1)) - a[F] : a[0];
  }
};

template <class T>
using LSTM = LSTMCell<T, false, false>;
template <class T>
using PeepholeLSTM = LSTMCell<T, true, false>;
template <class T>
using CoupledLSTM = LSTMCell<T, false, true>;
template <class T>
using CoupledPeepholeLSTM = LSTMCell<T, true, true>;
template <class T>
using LayerNormLSTM = LSTMCell<T, false, false, true>;

}  // namespace fusedstep::ISA
