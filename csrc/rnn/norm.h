// Layer normalisation inside cells: the formulas, over the CPU's vectors and CUDA's lanes.
//
//   N(a) = (a − mean a) / √(var a + ε), var biased                Ba, Kiros & Hinton 2016, eq. 3–4
//   y = γ·x̂ + β, x̂ = N(a):     da = (γ·dy − mean(γ·dy) − x̂·mean(γ·dy·x̂)) / σ     dγ = Σ dy·x̂     dβ = Σ dy
//
// Statistics of a row are in double. It is taken in blocks of kNormUnits hidden units, each with two sums, whose lanes
// are folded in halves; the blocks are combined in ascending order. A block's second sum is of squared deviations from
// its own mean (Chan, Golub & LeVeque 1983), which is accurate also where the mean is far larger than the deviations.
#pragma once

#include <cstddef>
#include <iterator>

#include "core/fn.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

inline constexpr std::size_t kNormUnits = 16;  // whole panels on every instruction set, half a warp
inline constexpr double kNormEpsilon = 1e-5;   // as torch's LayerNorm

// Vectors of a row that a cell normalises in a step: those of its accumulators, then c′.
template <class Cell>
constexpr int gate_norms() {
  if constexpr (Cell::layer_norm)
    return int(std::size(Cell::norms));
  else
    return 0;
}
template <class Cell>
inline constexpr int kGateNorms = gate_norms<Cell>();
template <class Cell>
inline constexpr int kNorms = kGateNorms<Cell> + (Cell::layer_norm && Cell::states > 1);

// The accumulators that a norm spans; c′ counts as one.
template <class Cell>
constexpr Norm norm_of(int norm) {
  if constexpr (Cell::layer_norm)
    if (norm < kGateNorms<Cell>) return Cell::norms[norm];
  return {0, 1};
}

// Where, among what is saved, the gradient of an accumulator's normalised value lies.
template <class Cell>
constexpr std::size_t value_slot(int accumulator) {
  constexpr int G = Cell::gates;
  return std::size_t(accumulator < G ? accumulator : Cell::state_slot[accumulator - G]);
}

FN std::size_t norm_blocks(std::size_t H) { return (H + kNormUnits - 1) / kNormUnits; }
// The units of a row's block that begins with `unit`.
FN std::size_t block_units(std::size_t H, std::size_t unit) { return H - unit < kNormUnits ? H - unit : kNormUnits; }
// So many values a block has, of `count` vectors.
FN double block_values(std::size_t H, std::size_t block, int count) {
  return double(count) * double(block_units(H, block * kNormUnits));
}

// Mean and 1/σ over `count` vectors of H units, of as many rows as a D has lanes: at(block, 0) are the means of the
// blocks, at(block, 1) the squared deviations from these.
template <class D, class At>
FN void combine_moments(std::size_t H, int count, At at, D& mean, D& scale) {
  const D n(double(count) * double(H));
  D sum(0.0), squares(0.0);
  for (std::size_t block = 0; block < norm_blocks(H); ++block)
    sum = sum + D(block_values(H, block, count)) * at(block, 0);
  mean = sum / n;
  for (std::size_t block = 0; block < norm_blocks(H); ++block) {
    const D apart = at(block, 0) - mean;
    squares = squares + (at(block, 1) + D(block_values(H, block, count)) * (apart * apart));
  }
  scale = D(1.0) / sqrt(squares / n + D(kNormEpsilon));
}
// The means of two sums, at(block, which) being a block's part.
template <class D, class At>
FN void combine_sums(std::size_t H, int count, At at, D& first, D& second) {
  const D n(double(count) * double(H));
  D sums[2] = {D(0.0), D(0.0)};
  for (int which = 0; which < 2; ++which)
    for (std::size_t block = 0; block < norm_blocks(H); ++block) sums[which] = sums[which] + at(block, which);
  first = sums[0] / n;
  second = sums[1] / n;
}

template <class V>
FN V norm_forward(V a, V mean, V scale) {
  return (a - mean) * scale;
}
// The gradient of what was normalised to x̂. dy: with the gain; the means: of dy and of dy·x̂.
template <class V>
FN V norm_backward(V dy, V x, V scale, V mean, V product_mean) {
  return scale * (dy - mean - x * product_mean);
}

}  // namespace fusedstep::ISA
