// Cross entropy of rows of few classes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/row_block.h"
#include "cpu/simd.h"
#include "loss/cross_entropy.h"

namespace fusedstep::ISA {

inline constexpr std::size_t kShortRow = 32;  // classes

// Rows of few classes, 16 at a time, each a lane: classes are summed one after the other.
template <class T, bool dense, bool probabilities, bool weighted>
void short_rows(const RowsCall& call, std::size_t begin, std::size_t end) {
  using V = Vec<T>;
  constexpr std::size_t kGroup = 16;
  const std::size_t C = call.C, rows = rows_per_sum(C);
  const CrossEntropy<T> rule{T(1 - call.smoothing), T(call.smoothing / double(C))};
  const T* const weight = static_cast<const T*>(call.weight);
  const T* const x = static_cast<const T*>(call.input);
  const T* const given = static_cast<const T*>(call.probabilities);
  T* const grad = static_cast<T*>(call.grad);
  alignas(64) T logits[kShortRow * kGroup] = {}, targets[probabilities ? kShortRow * kGroup : 1] = {};
  alignas(64) T max[kGroup], sum[kGroup], total[kGroup], mass[kGroup], rest[kGroup], height[kGroup], scale[kGroup],
      kept[kGroup];
  const auto place = [&](std::size_t r) { return r / call.inner * C * call.inner + r % call.inner; };
  const auto mass_of = [&](std::size_t c, std::size_t lane) __attribute__((always_inline)) {
    return rule.mass(probabilities ? load<T>(targets + c * kGroup + lane) : V(T(0)), weighted ? V(weight[c]) : V(T(1)));
  };

  for (std::size_t block = begin; block < end; ++block) {
    const std::size_t first = block * rows, n = std::min(call.N, first + rows) - first;
    RowBlock found(n);
    for (std::size_t from = 0; from < n; from += kGroup) {
      const std::size_t group = std::min(kGroup, n - from);
      for (std::size_t i = 0; i < group; ++i) {
        const std::size_t at = place(first + from + i);
        for (std::size_t c = 0; c < C; ++c) {
          logits[c * kGroup + i] = x[at + c * call.inner];
          if constexpr (probabilities) targets[c * kGroup + i] = given[at + c * call.inner];
        }
      }
      std::fill_n(height, kGroup, T(0)), std::fill_n(scale, kGroup, T(0)), std::fill_n(kept, kGroup, T(0));
      T x_y[kGroup];
      for (std::size_t i = 0; i < group; ++i)
        x_y[i] = logits[RowTarget<T, probabilities>(call, first + from + i).y * kGroup + i];
      for (std::size_t lane = 0; lane < kGroup; lane += V::size) {
        V m(std::numeric_limits<T>::lowest()), s(T(0)), all(T(0)), q(T(0)), r(T(0));
        for (std::size_t c = 0; c < C; ++c) m = larger(load<T>(logits + c * kGroup + lane), m);
        for (std::size_t c = 0; c < C; ++c) {
          const V distance = load<T>(logits + c * kGroup + lane) - m, e = exp_of_negative(distance);
          split_sum(distance, e, s, all);
          if constexpr (dense) {
            const V own = mass_of(c, lane);
            q = q + own;
            r = r - CrossEntropy<T>::share(own, distance);
          }
          store(logits + c * kGroup + lane, e);
        }
        store(max + lane, m), store(sum + lane, s), store(total + lane, all), store(mass + lane, q),
            store(rest + lane, r);
      }
      std::size_t y[kGroup];
      T at_y[kGroup];
      for (std::size_t i = 0; i < group; ++i) {
        const RowTarget<T, probabilities> target(call, first + from + i);
        y[i] = target.y;
        at_y[i] = T(0);
        if (target.u == 0) continue;
        const RowStatistics statistics{double(max[i]), joined_sum(sum[i], total[i]), double(mass[i]), double(rest[i])};
        const double g = call.scale * target.u;
        height[i] = T(g * found.put(from + i, statistics, target.u, target.mass, double(x_y[i]), call.z_loss));
        scale[i] = T(g);
        kept[i] = T(1);
        at_y[i] = T(g * target.mass);
      }
      if (!grad) continue;
      for (std::size_t lane = 0; lane < kGroup; lane += V::size) {
        const V h = load<T>(height + lane), g = load<T>(scale + lane), zero(T(0));
        const auto counts = load<T>(kept + lane) != zero;
        for (std::size_t c = 0; c < C; ++c) {
          const V e = load<T>(logits + c * kGroup + lane);
          V slope;
          if constexpr (dense)
            slope = CrossEntropy<T>::slope(e, h, mass_of(c, lane), g);
          else
            slope = CrossEntropy<T>::slope(e, h);
          store(logits + c * kGroup + lane, select(counts, slope, zero));
        }
      }
      for (std::size_t i = 0; i < group; ++i) {
        if (at_y[i] != 0) logits[y[i] * kGroup + i] -= at_y[i];
        T* const to = grad + place(first + from + i);
        for (std::size_t c = 0; c < C; ++c) to[c * call.inner] = logits[c * kGroup + i];
      }
    }
    found.template finish<T>(call, block, first, n);
  }
}

}  // namespace fusedstep::ISA
