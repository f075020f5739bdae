// Cross entropy of rows of many classes: each row is read once and stays in cache until its gradient is written.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/fold.h"
#include "cpu/row_block.h"
#include "cpu/simd.h"
#include "cpu/threads.h"
#include "loss/cross_entropy.h"

namespace fusedstep::ISA {

template <class T, bool dense, bool probabilities, bool weighted>
struct Softmax {
  using V = Vec<T>;
  using D = Vec<double>;
  static constexpr int k = kRowLanes / V::size;
  static_assert(k * V::size == kRowLanes);

  const CrossEntropy<T> rule;
  const std::size_t C, parts;
  double *const max, *const sum, *const mass, *const rest, *const factor;  // (padded(parts)) each

  static std::size_t doubles(std::size_t C) { return 5 * padded((C + kRowPart - 1) / kRowPart); }

  Softmax(const CrossEntropy<T>& rule, std::size_t C, double* room)
      : rule(rule),
        C(C),
        parts((C + kRowPart - 1) / kRowPart),
        max(room),
        sum(max + padded(parts)),
        mass(sum + padded(parts)),
        rest(mass + padded(parts)),
        factor(rest + padded(parts)) {
    std::fill_n(room, doubles(C), 0.0);
  }

  // f(at, n) for each vector of classes [begin, end); n < V::size in the last one alone.
  template <class F>
  static FN void for_vectors(std::size_t begin, std::size_t end, F f) {
    std::size_t at = begin;
    for (; at + kRowLanes <= end; at += kRowLanes)
      unroll<k>([&](auto i) __attribute__((always_inline)) { f(i, at + i * V::size, std::true_type{}); });
    unroll<k>([&](auto i) __attribute__((always_inline)) {
      if (at + i * V::size < end) f(i, at + i * V::size, std::false_type{});
    });
  }
  // Lanes past the end: `fill`.
  template <class Whole>
  static FN V take(const T* x, std::size_t at, std::size_t end, Whole, V fill) {
    if constexpr (Whole::value) return load<T>(x + at);
    const int n = int(std::min<std::size_t>(end - at, V::size));
    return n == V::size ? load<T>(x + at) : select(first_lanes<V>(n), load_n<T>(x + at, n), fill);
  }
  template <class Whole>
  static FN void put(T* y, std::size_t at, std::size_t end, Whole, V v) {
    const int n = Whole::value ? V::size : int(std::min<std::size_t>(end - at, V::size));
    if (n == V::size)
      store(y + at, v);
    else
      store_n(y + at, v, n);
  }
  template <class Whole>
  FN V mass_of(const T* t, const T* w, std::size_t at, std::size_t end, Whole whole) const {
    const V zero(T(0)), one(T(1));
    const V weight = weighted ? take(w, at, end, whole, zero)
                     : Whole::value || at + V::size <= end
                         ? one
                         : select(first_lanes<V>(int(std::min<std::size_t>(end - at, V::size))), one, zero);
    return rule.mass(probabilities ? take(t, at, end, whole, zero) : zero, weight);
  }

  static FN T total(const V (&lanes)[k]) {
    return folded(lanes, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
  }

  // A part's maximum. Four vectors at a time: their order does not show.
  T highest(std::size_t p, const T* x) const {
    const std::size_t begin = p * kRowPart, end = std::min(C, begin + kRowPart);
    constexpr int m = 4;
    V top[m];
    for (V& lane : top) lane = V(std::numeric_limits<T>::lowest());
    std::size_t at = begin;
    for (; at + m * V::size <= end; at += m * V::size)
      unroll<m>([&](auto i) __attribute__((always_inline)) { top[i] = larger(load<T>(x + at + i * V::size), top[i]); });
    for (; at < end; at += V::size)
      top[0] = larger(take(x, at, end, std::false_type{}, V(-std::numeric_limits<T>::infinity())), top[0]);
    return folded(top, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
  }

  // t (C) and w (C) where they are read; e of this part.
  void part(std::size_t p, const T* x, const T* t, const T* w, T* e) const {
    const std::size_t begin = p * kRowPart, end = std::min(C, begin + kRowPart);
    const V low(-std::numeric_limits<T>::infinity()), zero(T(0)), m = T(max[p]);
    V small[k], all[k], masses[k], rests[k];
    for (int i = 0; i < k; ++i) small[i] = all[i] = masses[i] = rests[i] = zero;
    for_vectors(begin, end, [&](auto i, std::size_t at, auto whole) __attribute__((always_inline)) {
      const V distance = take(x, at, end, whole, low) - m, v = exp_of_negative(distance);
      split_sum(distance, v, small[i], all[i]);
      if constexpr (dense) {
        const V q = mass_of(t, w, at, end, whole);
        masses[i] = masses[i] + q;
        rests[i] = rests[i] - CrossEntropy<T>::share(q, distance);
      }
      put(e, at - begin, end - begin, whole, v);
    });
    sum[p] = joined_sum(total(small), total(all));
    if constexpr (dense) mass[p] = double(total(masses)), rest[p] = double(total(rests));
  }

  // e (C), or one part's where no gradient is wanted.
  RowStatistics pass(const T* x, const T* t, const T* w, T* e, bool keep) {
    // The maxima of some parts, in L1, before the rest: the ends of one part's pass wait behind the next one's.
    constexpr std::size_t kGroup = 4;
    for (std::size_t first = 0; first < parts; first += kGroup) {
      const std::size_t last = std::min(parts, first + kGroup);
      for (std::size_t p = first; p < last; ++p) max[p] = double(highest(p, x));
      for (std::size_t p = first; p < last; ++p) part(p, x, t, w, keep ? e + p * kRowPart : e);
    }
    if (parts == 1) {
      factor[0] = 1;
      return {max[0], sum[0], mass[0], rest[0]};
    }
    RowStatistics all{*std::max_element(max, max + parts), 0, 0, 0};
    for (std::size_t p = 0; p < parts; p += D::size) store(factor + p, exp(load<double>(max + p) - D(all.max)));
    for (std::size_t p = 0; p < parts; ++p) {
      all.sum += factor[p] * sum[p];
      if (dense) {
        all.mass += mass[p];
        all.rest += rest[p] + (all.max - max[p]) * mass[p];
      }
    }
    return all;
  }

  // The row's gradient from its e, times g: `height` is g·(Q + 2z·lse)/s.
  void write(const T* t, const T* w, const T* e, T* grad, [[maybe_unused]] double g, double height) const {
    for (std::size_t p = 0; p < parts; ++p) {
      const std::size_t begin = p * kRowPart, end = std::min(C, begin + kRowPart);
      const V f = T(factor[p] * height);
      [[maybe_unused]] const V by = T(g);
      for_vectors(begin, end, [&](auto, std::size_t at, auto whole) __attribute__((always_inline)) {
        const V v = take(e, at, end, whole, f);
        if constexpr (dense)
          put(grad, at, end, whole, CrossEntropy<T>::slope(v, f, mass_of(t, w, at, end, whole), by));
        else
          put(grad, at, end, whole, CrossEntropy<T>::slope(v, f));
      });
    }
  }
};

template <class T, bool dense, bool probabilities, bool weighted>
void long_rows(const RowsCall& call, std::size_t begin, std::size_t end) {
  using Row = Softmax<T, dense, probabilities, weighted>;
  constexpr std::size_t tile = RowTile<T>::kTile;
  const std::size_t C = call.C, rows = rows_per_sum(C), last = std::min(call.N, end * rows);
  const std::size_t doubles = Row::doubles(C), room_of_tile = call.inner == 1 ? 0 : tile * C;
  char* const room = static_cast<char*>(
      scratch(doubles * sizeof(double) + (kRowPart + (1 + probabilities) * room_of_tile) * sizeof(T)));
  T* const spare = reinterpret_cast<T*>(room + doubles * sizeof(double));
  Row row({T(1 - call.smoothing), T(call.smoothing / double(C))}, C, reinterpret_cast<double*>(room));
  RowTile<T> logits(call.input, call.grad, call, last, spare + kRowPart);
  RowTile<T> targets(call.probabilities, nullptr, call, last, spare + kRowPart + room_of_tile);
  const T* const weight = static_cast<const T*>(call.weight);

  for (std::size_t block = begin; block < end; ++block) {
    const std::size_t first = block * rows, n = std::min(call.N, first + rows) - first;
    RowBlock found(n);
    for (std::size_t i = 0; i < n; ++i) {
      logits.seek(first + i);
      T* const grad = logits.out();
      const RowTarget<T, probabilities> target(call, first + i);
      if (target.u == 0) {
        if (grad) std::memset(grad, 0, C * sizeof(T));
        continue;
      }
      const T* t = nullptr;
      if constexpr (probabilities) targets.seek(first + i), t = targets.in();
      const T* const x = logits.in();
      const double x_y = double(x[target.y]);
      const bool keep = grad && C > std::size_t(kRowPart);  // one part stays in `spare`
      T* const e = keep ? grad : spare;
      const RowStatistics statistics = row.pass(x, t, weight, e, keep);
      const double height = found.put(i, statistics, target.u, target.mass, x_y, call.z_loss);
      if (!grad) continue;
      const double g = call.scale * target.u;
      row.write(t, weight, e, grad, g, g * height);
      if (target.mass != 0) grad[target.y] -= T(g * target.mass);
    }
    found.template finish<T>(call, block, first, n);
  }
}

}  // namespace fusedstep::ISA
