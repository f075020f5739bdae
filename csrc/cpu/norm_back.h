// Layer normalisation backward, and again where the tape is lean: what the sweeps of sequence_back.h call.
//
// The sums over a row are taken as rnn/norm.h says, those over rows and steps in double, in the order of the sweep. The
// tape holds x̂ of every accumulator after the gates' values; its gradient replaces it there.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/norm.h"
#include "cpu/pairs.h"
#include "cpu/rnn.h"
#include "cpu/simd.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

// Where among what is saved a gate's gradient lies that its weights in W_ih and in W_hh have a part in.
template <class Cell>
constexpr std::size_t input_slot(std::size_t gate) {
  return Cell::layer_norm ? Cell::values + gate : gate;
}
template <class Cell>
constexpr std::size_t state_slot(std::size_t gate) {
  return Cell::layer_norm ? Cell::values + Cell::gates + gate : std::size_t(Cell::state_slot[gate]);
}

// An accumulator's gains, from `unit` on.
template <class Cell>
const typename Cell::Scalar* gains_of(const Sweep& sweep, int accumulator, std::size_t unit) {
  constexpr int G = Cell::gates;
  static_assert(Cell::accumulators == 2 * G);
  const void* const gain = accumulator < G ? sweep.weights.gain_ih : sweep.weights.gain_hh;
  return as<typename Cell::Scalar>(gain) + std::size_t(accumulator % G) * sweep.H + unit;
}

// A block's values where they lie, or in `room` with zeros after a row's end.
template <class T>
FN const T* whole_block(const T* from, std::size_t units, T* room) {
  if (units >= kNormUnits) return from;
  std::copy_n(from, units, room);
  std::fill_n(room + units, kNormUnits - units, T(0));
  return room;
}

// A pair's statistics on the tape: mean and 1/σ of a norm.
template <class Cell>
const typename Cell::Scalar* taped_statistics(const Sweep& sweep, std::size_t pair, int norm) {
  return as<typename Cell::Scalar>(sweep.statistics) + (pair * std::size_t(kNorms<Cell>) + std::size_t(norm)) * 2;
}

// Pairs begin … end-1, whose accumulators lie where x̂ will: statistics, x̂ and the gates' values, to the tape.
template <class Cell>
void replay_norms(const Team& team, const Sweep& sweep, std::size_t begin, std::size_t end) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  constexpr std::size_t N = V::size, S = Cell::saved, A = Cell::accumulators;
  constexpr int of_gates = kGateNorms<Cell>, all = kNorms<Cell>;
  const std::size_t H = sweep.H;
  const Layout<Cell> layout{sweep.I, H, H};
  const Pairs<T> pairs{sweep};
  const std::size_t sums_size = RowSums{1, H, nullptr}.size(all);
  const RowSums sums{1, H, as<double>(scratch(sums_size * sizeof(double) + H * sizeof(T)))};
  T* const next_c = as<T>(static_cast<void*>(sums.data + sums_size));  // before zoneout, which the tape does not hold
  T values[2 * all];
  const RowValues<T> statistics{1, values};
  const Share own(end - begin, 1, team.thread, team.threads);
  pairs.each(begin + own.begin, begin + own.end, [&](std::size_t i, std::size_t step, std::size_t row) {
    const std::size_t pair = begin + own.begin + i;
    const T* const raw = as<T>(sweep.saved) + (pair * S + Cell::values) * H;
    // f(unit, a block's vector j as an array of kNormUnits)
    const auto each_block = [&](auto f) {
      for (std::size_t unit = 0; unit < H; unit += kNormUnits) {
        T room[A][kNormUnits];
        f(unit,
          [&](const T* from, int j) { return whole_block(from + unit, std::min(kNormUnits, H - unit), room[j]); });
      }
    };
    each_block([&](std::size_t unit, auto whole) {
      norm_moments<Cell, 0, of_gates>(
          sums, 0, unit, [&](int j, std::size_t lane) { return whole(raw + std::size_t(j) * H, j) + lane; });
    });
    row_statistics<Cell>(sums, 1, 0, of_gates, statistics);
    const T* const c = Cell::states > 1 ? pairs.previous_c(step, row) : nullptr;
    for (std::size_t unit = 0; unit < H; unit += N) {
      V a[A], s[] = {V(T(0)), c ? load_some<T>(c + unit, H - unit) : V(T(0))}, normalized[A];
      for (std::size_t j = 0; j < A; ++j) a[j] = load_some<T>(raw + j * H + unit, H - unit);
      normalize<Cell>(statistics, 0, as<T>(sweep.weights.packed) + unit / N * layout.size(), a, normalized);
      Cell::forward(a, s, static_cast<const V*>(nullptr));
      store_saved<Cell>(sweep.saved, pair, H, unit, a, normalized);
      store_some(next_c + unit, s[1], H - unit);
    }
    if constexpr (of_gates < all) {
      each_block([&](std::size_t unit, auto whole) {
        norm_moments<Cell, of_gates, all>(sums, 0, unit,
                                          [&](int j, std::size_t lane) { return whole(next_c, j) + lane; });
      });
      row_statistics<Cell>(sums, 1, of_gates, all, statistics);
    }
    store_statistics<Cell>(sweep, pair, 1, 0, all, statistics);
  });
}

// A block's parts of Σ γ·dy and Σ γ·dy·x̂ over `count` vectors of a row; dγ[j] += dy·x̂. All arrays are whole blocks,
// zeros past the row's end, but dγ.
template <int count, class T>
FN void sum_block(const T* const* dy, const T* const* normalized, const T* const* gain, double* const* dgain,
                  std::size_t units, double& sum, double& product_sum) {
  using D = Vec<double>;
  D sums[kBlockVectors], products[kBlockVectors];
  for (std::size_t i = 0; i < kBlockVectors; ++i) {
    const std::size_t lane = i * D::size;
    sums[i] = products[i] = D(0.0);
    for (int j = 0; j < count; ++j) {
      const D d = widen<D>(dy[j] + lane), g = widen<D>(gain[j] + lane), term = d * widen<D>(normalized[j] + lane);
      sums[i] = sums[i] + g * d;
      products[i] = products[i] + g * term;
      if (lane < units)
        store_some(dgain[j] + lane, load_some<double>(dgain[j] + lane, units - lane) + term, units - lane);
    }
  }
  sum = folded(sums);
  product_sum = folded(products);
}

// Both means over the rows, of norms first … last-1.
template <class Cell, class T>
void row_means(const RowSums& from, std::size_t rows, int first, int last, const RowValues<T>& to) {
  for (int norm = first; norm < last; ++norm)
    each_row_values(rows, norm, to, [&](std::size_t row, Vec<double>* both) {
      const auto at = [&](std::size_t block, int which) { return load<double>(from.at(norm, block, which) + row); };
      combine_sums(from.H, norm_of<Cell>(norm).count, at, both[0], both[1]);
    });
}

// The gradient of what was normalised; dy with the gain.
template <class V, class T>
FN V normalize_backward(V dy, V normalized, T scale, const RowValues<T>& means, int norm, std::size_t row) {
  return norm_backward(dy, normalized, V(scale), V(means.at(norm, 0)[row]), V(means.at(norm, 1)[row]));
}

// c′ before zoneout, which the tape does not hold.
template <class Cell, class T>
FN Vec<T> new_c(const Pairs<T>& pairs, std::size_t step, std::size_t row, std::size_t unit) {
  const Sweep& sweep = pairs.sweep;
  const std::size_t pair = pairs.number(step, row), H = sweep.H, lanes = H - unit;
  if (!has_zoneout(sweep.noise.zoneout)) return load_some<T>(as<T>(sweep.states) + pair * H + unit, lanes);
  Vec<T> a[Cell::values], s[Cell::states];
  load_saved<Cell, Cell::values>(sweep.saved, pair, H, unit, a);
  s[1] = pairs.previous_c(step, row, unit);
  return Cell::next_c(a, s);
}

// A pair's block of units: d, dh at first, becomes the gradient of γ_c·N(c′) + b_c; o's gradient replaces o.
template <class Cell>
void output_back(const Pairs<typename Cell::Scalar>& pairs, std::size_t step, std::size_t row, std::size_t unit,
                 typename Cell::Scalar* d, const RowSums& to) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  constexpr std::size_t N = V::size;
  const Sweep& sweep = pairs.sweep;
  const std::size_t pair = pairs.number(step, row);
  const std::size_t H = sweep.H, units = std::min(kNormUnits, H - unit), block = unit / kNormUnits;
  const T* const statistics = taped_statistics<Cell>(sweep, pair, kGateNorms<Cell>);
  T room[3][kNormUnits] = {};
  const T* const gain = whole_block(as<T>(sweep.weights.gain_c) + unit, units, room[0]);
  const T* const bias =
      sweep.weights.bias_c ? whole_block(as<T>(sweep.weights.bias_c) + unit, units, room[1]) : room[1];
  T* const normalized = room[2];
  T* const o = as<T>(sweep.saved) + (pair * Cell::saved + std::size_t(Cell::O)) * H + unit;
  for (std::size_t lane = 0; lane < units; lane += N) {
    const std::size_t lanes = units - lane;
    const V x = norm_forward(new_c<Cell>(pairs, step, row, unit + lane), V(statistics[0]), V(statistics[1]));
    V d_o, du(T(0));
    Cell::output_backward(load_some<T>(o + lane, lanes), fma(load<T>(gain + lane), x, load<T>(bias + lane)),
                          load<T>(d + lane), d_o, du);
    store_some(o + lane, d_o, lanes);
    store(d + lane, du);
    store_some(normalized + lane, x, lanes);
  }
  double* const sums = sweep.sums + std::size_t(Cell::saved) * H + unit;
  sum_block<1>(&d, &normalized, &gain, &sums, units, to.at(kGateNorms<Cell>, block, 0)[row],
               to.at(kGateNorms<Cell>, block, 1)[row]);
  for (std::size_t i = 0; i < units; ++i) sums[H + i] += double(d[i]);
}

// What of a vector's dc′ passed its norm; d as output_back left it.
template <class Cell, class V, class T>
FN V output_norm_backward(const Sweep& sweep, std::size_t pair, std::size_t unit, V d, V c, const RowValues<T>& means,
                          std::size_t row) {
  const T* const statistics = taped_statistics<Cell>(sweep, pair, kGateNorms<Cell>);
  const V gain = load_some<T>(as<T>(sweep.weights.gain_c) + unit, sweep.H - unit);
  const V x = norm_forward(c, V(statistics[0]), V(statistics[1]));
  return normalize_backward(d * gain, x, statistics[1], means, kGateNorms<Cell>, row);
}

// A pair's block of units: its parts of the sums over the row, of the gradients of the accumulators' norms.
template <class Cell>
void sum_gates(const Sweep& sweep, std::size_t pair, std::size_t unit, const RowSums& to, std::size_t row) {
  using T = typename Cell::Scalar;
  constexpr std::size_t values = Cell::values;
  const std::size_t H = sweep.H, units = std::min(kNormUnits, H - unit), block = unit / kNormUnits;
  const T* const saved = as<T>(sweep.saved) + pair * Cell::saved * H + unit;
  unroll<kGateNorms<Cell>>([&](auto k) __attribute__((always_inline)) {
    constexpr Norm norm = Cell::norms[k];
    T room[3][norm.count][kNormUnits];
    const T *dy[norm.count], *normalized[norm.count], *gain[norm.count];
    double* dgain[norm.count];
    for (int j = 0; j < norm.count; ++j) {
      const int accumulator = norm.first + j;
      dy[j] = whole_block(saved + value_slot<Cell>(accumulator) * H, units, room[0][j]);
      normalized[j] = whole_block(saved + (values + std::size_t(accumulator)) * H, units, room[1][j]);
      gain[j] = whole_block(gains_of<Cell>(sweep, accumulator, unit), units, room[2][j]);
      dgain[j] = sweep.sums + (values + std::size_t(accumulator)) * H + unit;
    }
    sum_block<norm.count>(dy, normalized, gain, dgain, units, to.at(k, block, 0)[row], to.at(k, block, 1)[row]);
  });
}

// A vector of units: d of the accumulators, also in place of x̂ on the tape.
template <class Cell, class V, class T>
FN void gate_norms_backward(const Sweep& sweep, std::size_t pair, std::size_t unit, const RowValues<T>& means,
                            std::size_t row, V* d) {
  const std::size_t H = sweep.H, lanes = H - unit;
  T* const saved = as<T>(sweep.saved) + pair * Cell::saved * H + unit;
  unroll<kGateNorms<Cell>>([&](auto k) __attribute__((always_inline)) {
    constexpr Norm norm = Cell::norms[k];
    const T scale = taped_statistics<Cell>(sweep, pair, k)[1];
    for (int j = norm.first; j < norm.first + norm.count; ++j) {
      T* const normalized = saved + std::size_t(Cell::values + j) * H;
      const V dy =
          load_some<T>(saved + value_slot<Cell>(j) * H, lanes) * load_some<T>(gains_of<Cell>(sweep, j, unit), lanes);
      d[j] = normalize_backward(dy, load_some<T>(normalized, lanes), scale, means, k, row);
      store_some(normalized, d[j], lanes);
    }
  });
}

}  // namespace fusedstep::ISA
