// The losses of rows of classes: each row is read once and stays in cache until its gradient is written.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/simd.h"
#include "cpu/threads.h"
#include "loss/cross_entropy.h"
#include "loss/nll.h"

namespace fusedstep::ISA {

inline constexpr std::size_t kRowPad = 8;  // doubles in a vector of any instruction set

inline std::size_t padded(std::size_t n) { return (n + kRowPad - 1) / kRowPad * kRowPad; }

// Rows of a (outer, C, inner) array as contiguous ones: those of inner = 1 where they lie, others a tile of adjacent
// ones at a time, turned over in `room`, (kTile, C), and back when `write` is set.
template <class T>
class RowTile {
 public:
  static constexpr std::size_t kTile = 16;

  RowTile(const void* from, void* to, const RowsCall& call, std::size_t end, T* room)
      : from_(static_cast<const T*>(from)),
        to_(static_cast<T*>(to)),
        C_(call.C),
        inner_(call.inner),
        end_(end),
        room_(room) {}
  ~RowTile() { flush(); }
  RowTile(const RowTile&) = delete;

  // Rows are asked for in ascending order.
  void seek(std::size_t r) {
    row_ = r;
    if (inner_ == 1 || r < last_) return;
    flush();
    first_ = r;
    last_ = std::min({r + kTile, end_, (r / inner_ + 1) * inner_});
    if (!from_) return;
    const T* const x = from_ + at(r);
    for (std::size_t c = 0; c < C_; ++c)
      for (std::size_t i = 0; i < last_ - first_; ++i) room_[i * C_ + c] = x[c * inner_ + i];
  }
  const T* in() const { return inner_ == 1 ? from_ + row_ * C_ : room_ + (row_ - first_) * C_; }
  T* out() const { return !to_ ? nullptr : inner_ == 1 ? to_ + row_ * C_ : room_ + (row_ - first_) * C_; }

 private:
  std::size_t at(std::size_t r) const { return r / inner_ * C_ * inner_ + r % inner_; }
  void flush() {
    if (!to_ || first_ == last_) return;
    T* const y = to_ + at(first_);
    for (std::size_t c = 0; c < C_; ++c)
      for (std::size_t i = 0; i < last_ - first_; ++i) y[c * inner_ + i] = room_[i * C_ + c];
    first_ = last_;
  }

  const T* const from_;
  T* const to_;
  const std::size_t C_, inner_, end_;
  T* const room_;
  std::size_t row_ = 0, first_ = 0, last_ = 0;
};

// The larger one; m where the other is NaN.
template <class V>
FN V larger(V a, V m) {
  return select(a > m, a, m);
}

// Adds e to `sum`, but where it is 1, at the maximum, to `ones`: beside a 1 what is small would be rounded away, and
// with it a small loss.
template <class V>
FN void split_sum(V distance, V e, V& sum, V& ones) {
  const V zero(typename V::Scalar(0));
  const auto highest = distance == zero;
  sum = sum + select(highest, zero, e);
  ones = ones + select(highest, e, zero);
}

// What one pass over a row leaves, in double.
struct RowStatistics {
  double max, sum;    // m and s
  double mass, rest;  // Q and Σ q·(m − x)
};

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

  template <class F>
  static FN T folded(const V (&lanes)[k], F f) {
    T x[kRowLanes];
    for (int i = 0; i < k; ++i) store(x + i * V::size, lanes[i]);
    for (int half = kRowLanes / 2; half; half /= 2)
      for (int j = 0; j < half; ++j) x[j] = f(x[j], x[j + half]);
    return x[0];
  }

  // t (C) and w (C) where they are read; e of this part.
  void part(std::size_t p, const T* x, const T* t, const T* w, T* e) const {
    const std::size_t begin = p * kRowPart, end = std::min(C, begin + kRowPart);
    const V low(-std::numeric_limits<T>::infinity()), zero(T(0));
    V top[k], sums[k], highs[k], masses[k], rests[k];
    for (int i = 0; i < k; ++i)
      top[i] = V(std::numeric_limits<T>::lowest()), sums[i] = highs[i] = masses[i] = rests[i] = zero;
    for_vectors(begin, end, [&](auto i, std::size_t at, auto whole) __attribute__((always_inline)) {
      const V v = take(x, at, end, whole, low);
      top[i] = larger(v, top[i]);
    });
    const T highest = folded(top, [](T a, T b) { return a > b ? a : b; });
    const V m(highest);
    for_vectors(begin, end, [&](auto i, std::size_t at, auto whole) __attribute__((always_inline)) {
      const V distance = take(x, at, end, whole, low) - m, v = exp_of_negative(distance);
      split_sum(distance, v, sums[i], highs[i]);
      if constexpr (dense) {
        const V q = mass_of(t, w, at, end, whole);
        masses[i] = masses[i] + q;
        rests[i] = rests[i] - CrossEntropy<T>::share(q, distance);
      }
      put(e, at - begin, end - begin, whole, v);
    });
    max[p] = double(highest);
    constexpr auto plus = [](T a, T b) { return a + b; };
    sum[p] = double(folded(highs, plus)) + double(folded(sums, plus));
    if constexpr (dense) mass[p] = double(folded(masses, plus)), rest[p] = double(folded(rests, plus));
  }

  // e (C), or one part's where no gradient is wanted.
  RowStatistics pass(const T* x, const T* t, const T* w, T* e, bool keep) {
    for (std::size_t p = 0; p < parts; ++p) part(p, x, t, w, keep ? e + p * kRowPart : e);
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

// The rows of one sum: what their losses are made of, in double, and what each row's gradient takes.
struct RowBlock {
  static constexpr std::size_t kMax = rows_per_sum(1);
  alignas(64) double sum[kMax], max[kMax], mass[kMax], rest[kMax], own[kMax];

  explicit RowBlock(std::size_t n) {
    for (std::size_t i = 0; i < padded(n); ++i) sum[i] = 1, max[i] = mass[i] = rest[i] = own[i] = 0;
  }

  // Row i of weight u, whose class y has the mass q_y beside what `found` holds. Returns Q + 2z·lse, over s.
  double put(std::size_t i, RowStatistics found, double u, double q_y, double x_y, double z_loss) {
    if (q_y != 0) {
      found.mass += q_y;
      found.rest += q_y * (found.max - x_y);
    }
    sum[i] = found.sum, max[i] = found.max, mass[i] = found.mass, rest[i] = found.rest, own[i] = u;
    const double lse = z_loss == 0 ? 0 : found.max + log(Vec<double>(found.sum)).raw[0];
    return (found.mass + 2 * z_loss * lse) / found.sum;
  }

  template <class T>
  void finish(const RowsCall& call, std::size_t block, std::size_t first, std::size_t n) {
    using D = Vec<double>;
    if (!call.values && !call.sums) return;
    for (std::size_t i = 0; i < n; i += D::size) {
      const D logarithm = log(load<double>(sum + i)), lse = load<double>(max + i) + logarithm;
      const D loss = load<double>(mass + i) * logarithm + load<double>(rest + i) + D(call.z_loss) * lse * lse;
      store(sum + i, load<double>(own + i) * loss);
    }
    double total = 0;
    for (std::size_t i = 0; i < n; ++i) {
      total += sum[i];
      if (call.values) static_cast<T*>(call.values)[first + i] = T(sum[i]);
    }
    if (call.sums) call.sums[block] = total;
  }
};

// Of row r: its weight, 0 where it is left out, and the mass of its class beside what all classes get.
template <class T, bool probabilities>
struct RowTarget {
  double u, mass;
  std::size_t y;

  RowTarget(const RowsCall& call, std::size_t r) : u(1), mass(0), y(0) {
    if (call.sample_weight) u = double(static_cast<const T*>(call.sample_weight)[r]);
    if (probabilities || u == 0) return;
    if (call.index[r] == call.ignore_index) {
      u = 0;
      return;
    }
    y = std::size_t(call.index[r]);
    mass = (1 - call.smoothing) * (call.weight ? double(static_cast<const T*>(call.weight)[y]) : 1);
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
  alignas(64) T max[kGroup], sum[kGroup], high[kGroup], mass[kGroup], rest[kGroup], height[kGroup], scale[kGroup],
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
        V m(std::numeric_limits<T>::lowest()), s(T(0)), ones(T(0)), q(T(0)), r(T(0));
        for (std::size_t c = 0; c < C; ++c) m = larger(load<T>(logits + c * kGroup + lane), m);
        for (std::size_t c = 0; c < C; ++c) {
          const V distance = load<T>(logits + c * kGroup + lane) - m, e = exp_of_negative(distance);
          split_sum(distance, e, s, ones);
          if constexpr (dense) {
            const V own = mass_of(c, lane);
            q = q + own;
            r = r - CrossEntropy<T>::share(own, distance);
          }
          store(logits + c * kGroup + lane, e);
        }
        store(max + lane, m), store(sum + lane, s), store(high + lane, ones), store(mass + lane, q),
            store(rest + lane, r);
      }
      std::size_t y[kGroup];
      T at_y[kGroup];
      for (std::size_t i = 0; i < group; ++i) {
        const RowTarget<T, probabilities> target(call, first + from + i);
        y[i] = target.y;
        at_y[i] = T(0);
        if (target.u == 0) continue;
        const RowStatistics statistics{double(max[i]), double(high[i]) + double(sum[i]), double(mass[i]),
                                       double(rest[i])};
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

template <class T, bool dense, bool probabilities, bool weighted>
void softmax_rows(const RowsCall& call, std::size_t begin, std::size_t end) {
  if (call.C <= kShortRow)
    short_rows<T, dense, probabilities, weighted>(call, begin, end);
  else
    long_rows<T, dense, probabilities, weighted>(call, begin, end);
}

template <class T>
void cross_entropy(const RowsCall& call, std::size_t begin, std::size_t end) {
  const auto run = call.probabilities
                       ? (call.weight ? softmax_rows<T, true, true, true> : softmax_rows<T, true, true, false>)
                   : call.smoothing == 0 ? softmax_rows<T, false, false, false>
                   : call.weight         ? softmax_rows<T, true, false, true>
                                         : softmax_rows<T, true, false, false>;
  run(call, begin, end);
}

template <class T>
void nll(const RowsCall& call, std::size_t begin, std::size_t end) {
  const std::size_t C = call.C, rows = rows_per_sum(C), last = std::min(call.N, end * rows);
  T* const room = static_cast<T*>(scratch(call.inner == 1 ? sizeof(T) : RowTile<T>::kTile * C * sizeof(T)));
  RowTile<T> logits(nullptr, call.grad, call, last, room);
  const T* const x = static_cast<const T*>(call.input);
  const T* const weight = static_cast<const T*>(call.weight);
  const T* const sample_weight = static_cast<const T*>(call.sample_weight);
  for (std::size_t block = begin; block < end; ++block) {
    double total = 0;
    for (std::size_t r = block * rows; r < std::min(call.N, (block + 1) * rows); ++r) {
      const double u = sample_weight ? double(sample_weight[r]) : 1;
      const bool left_out = u == 0 || call.index[r] == call.ignore_index;
      double loss = 0, slope = 0;
      const std::size_t y = left_out ? 0 : std::size_t(call.index[r]);
      if (!left_out) {
        const double w = weight ? double(weight[y]) : 1;
        loss = u * NLL::loss(double(x[(r / call.inner * C + y) * call.inner + r % call.inner]), w);
        slope = u * call.scale * NLL::slope(w);
      }
      logits.seek(r);
      if (T* const grad = logits.out()) {
        std::memset(grad, 0, C * sizeof(T));
        grad[y] = T(slope);
      }
      if (call.values) static_cast<T*>(call.values)[r] = T(loss);
      total += loss;
    }
    if (call.sums) call.sums[block] = total;
  }
}

}  // namespace fusedstep::ISA
