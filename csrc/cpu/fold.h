// Lanes folded in halves, in registers: lane j with lane j + n/2, then of those j with j + n/4, and so on.
#pragma once

#include <utility>

#include "core/fn.h"
#include "cpu/simd.h"

namespace fusedstep::ISA {

template <class T, int n>
struct RawLanes {
  typedef T type __attribute__((vector_size(n * sizeof(T))));
};

// f of two vectors, and of two numbers.
template <class T, int n, class F>
FN T fold_lanes(typename RawLanes<T, n>::type v, F f) {
  constexpr int half = n / 2;
  if constexpr (n * sizeof(T) <= 16) {
    T x[n];
    for (int j = 0; j < n; ++j) x[j] = v[j];
    for (int h = half; h; h /= 2)
      for (int j = 0; j < h; ++j) x[j] = f(x[j], x[j + h]);
    return x[0];
  } else {
    return [&]<int... j>(std::integer_sequence<int, j...>) __attribute__((always_inline)) {
      return fold_lanes<T, half>(f(__builtin_shufflevector(v, v, j...), __builtin_shufflevector(v, v, (half + j)...)),
                                 f);
    }(std::make_integer_sequence<int, half>{});
  }
}

// The lanes of k vectors, one behind the other.
template <class T, int k, class F>
FN T folded(const Vec<T> (&lanes)[k], F f) {
  using Raw = typename RawLanes<T, Vec<T>::size>::type;
  Raw x[k];
  for (int i = 0; i < k; ++i) x[i] = lanes[i].raw;
  for (int half = k / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = f(x[i], x[i + half]);
  return fold_lanes<T, Vec<T>::size>(x[0], f);
}

}  // namespace fusedstep::ISA
