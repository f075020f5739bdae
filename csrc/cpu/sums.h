// Sums in a fixed order, the same for every instruction set: lane j of 32 takes the terms j, j+32, … in double, and the
// lanes are folded in halves.
#pragma once

#include <cstddef>

#include "cpu/simd.h"

namespace fusedstep::ISA {

class Sum {
 public:
  static constexpr int lanes = 32;

  Sum() {
    for (auto& lane : lane_) lane = D(0.0);
  }
  // n terms; all calls but the last add a multiple of 32.
  template <class S>
  void add(const S* x, std::size_t n) {
    std::size_t at = 0;
    for (; at + lanes <= n; at += lanes) add_all(x + at);
    if (at == n) return;
    S rest[lanes] = {};
    for (std::size_t j = at; j < n; ++j) rest[j - at] = x[j];
    add_all(rest);
  }
  double total() const {
    double folded[lanes];
    for (int j = 0; j < m; ++j) store(folded + j * D::size, lane_[j]);
    for (int half = lanes / 2; half; half /= 2)
      for (int j = 0; j < half; ++j) folded[j] += folded[j + half];
    return folded[0];
  }

 private:
  using D = Vec<double>;
  static constexpr int m = lanes / D::size;

  template <class S>
  FN void add_all(const S* x) {
    for (int j = 0; j < m; ++j) lane_[j] = lane_[j] + widen<D>(x + j * D::size);
  }

  D lane_[m];
};

}  // namespace fusedstep::ISA
