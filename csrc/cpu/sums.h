// Sums in a fixed order, the same for every instruction set: lane j of 32 takes the terms j, j+32, … in double, and the
// lanes are folded in halves.
#pragma once

#include <cstddef>

#include "cpu/fold.h"
#include "cpu/simd.h"

namespace fusedstep::ISA {

// Lanes j·D::size on of a register that has as many times the lanes.
template <class D, class S>
FN D widen_part(Vec<S> a, [[maybe_unused]] int j) {
  if constexpr (std::is_same_v<D, Vec<S>>) return a;
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(S) == 4)
    return D(typename D::Raw(_mm512_cvtps_pd(j ? _mm512_extractf32x8_ps(a.raw, 1) : _mm512_castps512_ps256(a.raw))));
#endif
  S lanes[Vec<S>::size];
  __builtin_memcpy(lanes, &a.raw, sizeof lanes);
  return widen<D>(lanes + j * D::size);
}

class LaneSum {
 public:
  static constexpr int lanes = 32;

  LaneSum() {
    for (auto& lane : lane_) lane = D(0.0);
  }
  // The terms f(x) of n elements in double, f(0) = 0; all calls but the last add a multiple of 32.
  template <class S, class F>
  FN void add(const S* x, std::size_t n, F f) {
    std::size_t at = 0;
    for (; at + lanes <= n; at += lanes) add_all(x + at, f);
    if (at == n) return;
    S rest[lanes] = {};
    for (std::size_t j = at; j < n; ++j) rest[j - at] = x[j];
    add_all(rest, f);
  }
  template <class S>
  void add(const S* x, std::size_t n) {
    add(x, n, [](auto term) { return term; });
  }
  // Terms at, at+1, … since the last total, as many as the vector has lanes, all counted.
  template <class S>
  FN void add_vector(std::size_t at, Vec<S> x) {
    D* const lane = lane_ + at % lanes / D::size;
    for (int j = 0; j < Vec<S>::size / D::size; ++j) lane[j] = lane[j] + widen_part<D>(x, j);
  }
  double total() const {
    return folded(lane_, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
  }

 private:
  using D = Vec<double>;
  static constexpr int m = lanes / D::size;

  template <class S, class F>
  FN void add_all(const S* x, F f) {
    for (int j = 0; j < m; ++j) lane_[j] = lane_[j] + f(widen<D>(x + j * D::size));
  }

  D lane_[m];
};

}  // namespace fusedstep::ISA
