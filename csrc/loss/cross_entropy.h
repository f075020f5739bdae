// Cross entropy of softmax(x) over the C classes of a row, torch's cross_entropy.
//   l = Σ_c q_c·(lse − x_c) + z·lse²        lse = log Σ_c e^x_c
//   dl/dx_c = softmax(x)_c·(Q + 2z·lse) − q_c        Q = Σ_c q_c
//   q_c = w_c·((1 − ε)·t_c + ε/C), t the target's probabilities, or 1 at its class; z: the PaLM paper's z-loss
//
// The row is read once: in parts of kRowPart classes, each with its maximum m_p, its e_c = e^(x_c − m_p) and sums. Then
//   m = max m_p        s = Σ_p f_p·Σ e_c, f_p = e^(m_p − m)        softmax(x)_c = e_c·f_p/s        lse = m + log s
// Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018. Logits enter as distances from a maximum,
// so that a small loss of large logits is accurate: Σ q_c·(lse − x_c) = Q·log s + Σ_p Σ_c q_c·((m − m_p) − (x_c −
// m_p)).
#pragma once

#include "core/fn.h"
#include "core/vector.h"

namespace fusedstep::ISA {

inline constexpr int kRowPart = 256, kRowLanes = 16;  // lane j of a part takes its classes j, j+16, …

// The larger one; m where the other is NaN.
template <class V>
FN V larger(V a, V m) {
  return select(a > m, a, m);
}

// Adds e to `all`, and to `small` but where it is 1, at the maximum: beside a 1 what is small would be rounded away,
// and with it a small loss.
template <class V>
FN void split_sum(V distance, V e, V& small, V& all) {
  const V zero(typename V::Scalar(0));
  small = small + select(distance == zero, zero, e);
  all = all + e;
}
// The sum: how many are 1, which is whole, and what is small.
template <class T>
FN double joined_sum(T small, T all) {
  const T magic = kMagic<T>, ones = ((all - small) + magic) - magic;
  return double(ones) + double(small);
}

// What one pass over a row leaves, in double.
struct RowStatistics {
  double max, sum;    // m and s
  double mass, rest;  // Q and Σ q·(m − x)
};

// The loss of a row, Q·log s + Σ q·(m − x) + z·lse², and Q + 2z·lse, which its softmax's gradient has as a factor.
template <class D>
FN D row_loss(D max, D log_sum, D mass, D rest, double z) {
  const D lse = max + log_sum;
  return mass * log_sum + rest + D(z) * lse * lse;
}
template <class D>
FN D row_height(D max, D log_sum, D mass, double z) {
  return mass + D(2 * z) * (max + log_sum);
}

template <class T>
struct CrossEntropy {
  T kept, spread;  // 1 − ε, ε/C

  // q_c of a target given by probabilities, or, with t = 0, what every class gets.
  template <class V>
  FN V mass(V t, V w) const {
    return fma(t, V(kept), V(spread)) * w;
  }
  // q_c times the distance of x_c from its part's maximum. A class without mass may have x = −inf.
  template <class V>
  FN static V share(V q, V distance) {
    return select(q == V(T(0)), V(T(0)), q * distance);
  }
  // The gradient of a class: e_c times its part's factor f_p·g·(Q + 2z·lse)/s, where g scales the row's gradient.
  template <class V>
  FN static V slope(V e, V factor) {
    return e * factor;
  }
  template <class V>
  FN static V slope(V e, V factor, V q, V g) {
    return e * factor - q * g;
  }
};

}  // namespace fusedstep::ISA
