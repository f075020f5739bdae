// Not an optimizer: the least that a loop can do while it moves an optimizer's bytes. It reads the gradient and reads
// and writes the parameter and every state; its speed is the ceiling that the benchmarks and the profiler compare with.
#pragma once

#include "core/fn.h"

namespace fusedstep::ISA {

template <class T, int n>
struct Touch {
  static constexpr const char* hyper = "";
  static constexpr int states = n;

  T unused;

  FN static Touch<double, n> prepare(const double*, double) { return {}; }

  template <class V, class... States>
  FN void operator()(V& p, V g, States&... s) const {
    p = p + g;
    ((s = s + g), ...);
  }
};

template <class T>
struct Touch1 : Touch<T, 1> {
  static constexpr const char* name = "touch1";
};
template <class T>
struct Touch2 : Touch<T, 2> {
  static constexpr const char* name = "touch2";
};
template <class T>
struct Touch3 : Touch<T, 3> {
  static constexpr const char* name = "touch3";
};

}  // namespace fusedstep::ISA
