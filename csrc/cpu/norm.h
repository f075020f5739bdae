// Layer normalisation inside sweeps: statistics of rows whose hidden units belong to several threads (rnn/norm.h).
//
// The owner of a block of kNormUnits hidden units leaves two sums of its values in RowSums; past a barrier every thread
// combines the blocks of all rows. Blocks are the same whatever the vectors and threads: so are the bits.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/rnn.h"
#include "cpu/simd.h"
#include "rnn/norm.h"

namespace fusedstep::ISA {

// Panels of so many units that a thread owns together.
template <class Cell>
constexpr std::size_t owned_panels(std::size_t width) {
  return Cell::layer_norm ? std::max<std::size_t>(kNormUnits / width, 1) : 1;
}

// Two sums for each norm, block of units and row of a sweep.
struct RowSums {
  std::size_t B, H;
  double* data;

  std::size_t rows() const { return (B + 7) / 8 * 8; }  // whole cache lines, and vectors
  std::size_t blocks() const { return norm_blocks(H); }
  std::size_t size(int norms) const { return std::size_t(norms) * blocks() * 2 * rows(); }
  double* at(int norm, std::size_t block, int which) const {
    return data + ((std::size_t(norm) * blocks() + block) * 2 + std::size_t(which)) * rows();
  }
};

// What a thread makes of them: two values for each norm and row.
template <class T>
struct RowValues {
  std::size_t B;
  T* data;

  std::size_t size(int norms) const { return std::size_t(norms) * 2 * B; }
  T* at(int norm, int which) const { return data + (std::size_t(norm) * 2 + std::size_t(which)) * B; }
};

inline constexpr std::size_t kBlockVectors = kNormUnits / Vec<double>::size;

// The sum of kNormUnits lanes, folded in halves: of vectors, then of the last one's lanes.
FN double folded(Vec<double>* lanes) {
  for (std::size_t half = kBlockVectors / 2; half; half /= 2)
    for (std::size_t i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
  constexpr int size = Vec<double>::size;
  double sums[size];
  store(sums, lanes[0]);
  for (int half = size / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

// The mean of `count` vectors of a block's units, and the sum of squared deviations from it. at(j, lane): the values of
// vector j from a lane on, as many as a vector of doubles has; it is not called for what lies past the row's end.
template <int count, class At>
FN void block_moments(std::size_t units, double& mean, double& squares, At at) {
  using D = Vec<double>;
  D values[count][kBlockVectors], lanes[kBlockVectors];
  for (std::size_t i = 0; i < kBlockVectors; ++i) {
    const std::size_t lane = i * D::size;
    lanes[i] = D(0.0);
    for (int j = 0; j < count; ++j) {
      values[j][i] = lane < units ? widen<D>(at(j, lane)) : D(0.0);
      lanes[i] = lanes[i] + values[j][i];
    }
  }
  mean = folded(lanes) / (double(count) * double(units));
  if (units < kNormUnits)  // what lies past the row's end deviates by nothing
    for (std::size_t i = 0; i < kBlockVectors; ++i)
      for (int j = 0; j < count; ++j)
        values[j][i] = select<double>(first_lanes<D>(int(units) - int(i) * D::size), values[j][i], D(mean));
  for (std::size_t i = 0; i < kBlockVectors; ++i) {
    lanes[i] = D(0.0);
    for (int j = 0; j < count; ++j) {
      const D deviation = values[j][i] - D(mean);
      lanes[i] = lanes[i] + deviation * deviation;
    }
  }
  squares = folded(lanes);
}

// to.at(norm, 0 and 1) of the first `rows` rows: f(row) gives both, for as many rows as a vector of doubles has.
template <class T, class F>
void each_row_values(std::size_t rows, int norm, const RowValues<T>& to, F f) {
  using D = Vec<double>;
  for (std::size_t row = 0; row < rows; row += D::size) {
    D both[2];
    f(row, both);
    for (int which = 0; which < 2; ++which)
      for (std::size_t i = 0; i < std::min<std::size_t>(D::size, rows - row); ++i)
        to.at(norm, which)[row + i] = T(both[which].raw[i]);
  }
}

// Mean and 1/σ of norms first … last-1 of the first `rows` rows, from the moments of their blocks.
template <class Cell, class T>
void row_statistics(const RowSums& from, std::size_t rows, int first, int last, const RowValues<T>& to) {
  for (int norm = first; norm < last; ++norm)
    each_row_values(rows, norm, to, [&](std::size_t row, Vec<double>* both) {
      const auto at = [&](std::size_t block, int which) { return load<double>(from.at(norm, block, which) + row); };
      combine_moments(from.H, norm_of<Cell>(norm).count, at, both[0], both[1]);
    });
}

// The moments of a row's block of units from `unit` on: of norms first … last-1, at(j, lane) being the values of
// accumulator j, or for c′'s norm of c′.
template <class Cell, int first, int last, class At>
FN void norm_moments(const RowSums& to, std::size_t row, std::size_t unit, At at) {
  const std::size_t block = unit / kNormUnits;
  unroll<last - first>([&](auto i) __attribute__((always_inline)) {
    constexpr int norm = first + i, from = norm_of<Cell>(norm).first;
    block_moments<norm_of<Cell>(norm).count>(
        std::min(kNormUnits, to.H - unit), to.at(norm, block, 0)[row], to.at(norm, block, 1)[row],
        [&](int j, std::size_t lane) __attribute__((always_inline)) { return at(from + j, lane); });
  });
}

// f(row, unit) for the blocks of units in panels [first, last), `width` units wide, of the first `rows` rows.
template <class F>
FN void each_norm_block(const RowSums& of, std::size_t rows, std::size_t first, std::size_t last, std::size_t width,
                        F f) {
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t unit = first * width; unit < std::min(of.H, last * width); unit += kNormUnits) f(row, unit);
}

// Norms first … last-1 of the rows of pairs from `pair` on, to the tape.
template <class Cell, class T>
void store_statistics(const Sweep& sweep, std::size_t pair, std::size_t rows, int first, int last,
                      const RowValues<T>& from) {
  for (std::size_t row = 0; row < rows; ++row)
    for (int i = 2 * first; i < 2 * last; ++i)
      as<T>(sweep.statistics)[(pair + row) * 2 * kNorms<Cell> + std::size_t(i)] = from.at(i / 2, i % 2)[row];
}

// The accumulators a become gain·x̂ + bias, x̂ being what they are normalised. `panel` is the units' packed one.
template <class Cell, class V, class T>
FN void normalize(const RowValues<T>& statistics, std::size_t row, const T* panel, V* a, V* normalized) {
  constexpr std::size_t N = V::size;
  const T* const gains = panel + Layout<Cell>::kGains;
  const T* const biases = gains + Cell::accumulators * N;
  unroll<kGateNorms<Cell>>([&](auto k) __attribute__((always_inline)) {
    constexpr Norm norm = Cell::norms[k];
    const V mean(statistics.at(k, 0)[row]), scale(statistics.at(k, 1)[row]);
    for (int j = norm.first; j < norm.first + norm.count; ++j) {
      normalized[j] = norm_forward(a[j], mean, scale);
      a[j] = fma(load<T>(gains + j * N), normalized[j], load<T>(biases + j * N));
    }
  });
}

// h′ of the gate o and c′.
template <class Cell, class V, class T>
FN V normalized_output(const RowValues<T>& statistics, std::size_t row, const T* panel, V o, V c) {
  constexpr std::size_t N = V::size;
  const T* const gain = panel + Layout<Cell>::kGains + 2 * Cell::accumulators * N;
  const V mean(statistics.at(kGateNorms<Cell>, 0)[row]), scale(statistics.at(kGateNorms<Cell>, 1)[row]);
  return Cell::output(o, fma(load<T>(gain), norm_forward(c, mean, scale), load<T>(gain + N)));
}

}  // namespace fusedstep::ISA
