// A projection h = W_hr·m of an LSTM's output m (Sak, Senior & Beaufays 2014), of P values: what a step does with them
// once the product is there, as a cell of P units whose one preactivation is that product and whose function is the
// identity. So the steps' kernels serve it as they are: the state before, resets, masks, zoneout, y and its gradient.
// The LSTM's own sweep beside it then sees no h at all; its y is m.
#pragma once

#include "core/fn.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

template <class T>
struct ProjectedOutput {
  using Scalar = T;
  static constexpr const char* name = "projection";
  static constexpr bool layer_norm = false, can_project = false, separate_state_gradients = false;
  static constexpr int gates = 1, accumulators = 1, states = 1, peepholes = 0;
  static constexpr int values = 0, saved = 1;  // nothing is, and an array of nothing is no type
  using InputGates = NoGates;
  using StateGates = Gates<0, 0>;
  using LateGates = NoGates;

  template <class V>
  FN static void forward(V* a, V* s, const V*) {
    s[0] = a[0];
  }
  template <class V>
  FN static void backward(const V*, const V*, const V*, V* ds, const V*, V* da, V*) {
    da[0] = ds[0];
    ds[0] = V(T(0));
  }
};

}  // namespace fusedstep::ISA
