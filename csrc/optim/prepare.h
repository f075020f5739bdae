// A rule of hyperparameters and step count t (from 1): its scalars in double, each rounded once to T. Rules hold
// nothing else.
#pragma once

#include "core/fn.h"
#include "core/table.h"

namespace fusedstep::ISA {

template <template <class> class Rule, class T>
FN void prepare(const double* hyper, double t, void* rule) {
  constexpr int n = sizeof(Rule<T>) / sizeof(T);
  static_assert(n * sizeof(T) == sizeof(Rule<T>) && sizeof(Rule<T>) <= kRuleBytes);
  struct Scalars {
    double of[n];
  };
  const auto exact = __builtin_bit_cast(Scalars, Rule<double>::prepare(hyper, t));
  for (int i = 0; i < n; ++i) static_cast<T*>(rule)[i] = T(exact.of[i]);
}

}  // namespace fusedstep::ISA
