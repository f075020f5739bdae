// The steps and rows of a sweep: which take part, where they lie, and which thread owns what of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/int8.h"
#include "cpu/pack.h"
#include "cpu/rnn.h"

namespace fusedstep::ISA {

// Threads for steps of so many rows and weights: those of a few rows wait for the weights, and take as long as four.
// All steps together must be worth waking the threads, and each of them a barrier, which takes an eighth of that or
// less.
inline int threads_for_steps(std::size_t steps, std::size_t rows, double weights) {
  const double step = std::max(double(rows), 4.0) * weights;
  return std::min(threads_for(double(steps) * step), threads_for(8 * step));
}

inline constexpr std::size_t kChunkRows = 2 * kRowBlock;  // rows that share a product with W_ih

// Which steps and rows a sweep's pairs are, and where they lie in strided arrays.
template <class T>
struct Pairs {
  const Sweep& sweep;

  std::size_t active(std::size_t step) const { return sweep.start[step + 1] - sweep.start[step]; }
  std::size_t number(std::size_t step, std::size_t row) const { return sweep.start[step] + row; }
  T* at(const Strided& array, std::size_t step, std::size_t row) const {
    const auto s = std::ptrdiff_t(step);
    const std::ptrdiff_t time = sweep.reverse ? std::ptrdiff_t(sweep.lengths[row]) - 1 - s : s;
    return as<T>(array.data) + time * array.step + std::ptrdiff_t(sweep.order[row]) * array.row;
  }
  bool reset(std::size_t step, std::size_t row) const {
    return sweep.reset &&
           sweep.reset[std::ptrdiff_t(step) * sweep.ld_reset[0] + std::ptrdiff_t(sweep.order[row]) * sweep.ld_reset[1]];
  }
  // A row of a state's array (B, width).
  T* row_of(const void* state, std::size_t row, std::size_t width) const {
    return static_cast<T*>(const_cast<void*>(state)) + std::size_t(sweep.order[row]) * width;
  }
  // f(pair's place in [begin, end), step, row)
  template <class F>
  void each(std::size_t begin, std::size_t end, F f) const {
    std::size_t step = std::size_t(std::upper_bound(sweep.start, sweep.start + sweep.T, begin) - sweep.start) - 1;
    for (std::size_t pair = begin; pair < end; ++pair) {
      while (pair >= sweep.start[step + 1]) ++step;
      f(pair - begin, step, pair - sweep.start[step]);
    }
  }
  // The state before a step: null where it is zeroed.
  const T* previous_h(std::size_t step, std::size_t row) const {
    if (reset(step, row)) return nullptr;
    return step ? at(sweep.y, step - 1, row) : row_of(sweep.state[0], row, sweep.P);
  }
  const T* previous_c(std::size_t step, std::size_t row) const {
    if (reset(step, row)) return nullptr;
    return step ? as<T>(sweep.states) + number(step - 1, row) * sweep.H : row_of(sweep.state[1], row, sweep.H);
  }
  FN Vec<T> previous_c(std::size_t step, std::size_t row, std::size_t unit) const {
    const T* const c = previous_c(step, row);
    return c ? load_some<T>(c + unit, sweep.H - unit) : Vec<T>(T(0));
  }
  // The inputs of at most kRowBlock consecutive pairs, packed for weights of this storage.
  void pack_x(std::size_t begin, std::size_t end, Storage storage, T* to) const {
    const T* rows[kRowBlock];
    each(begin, end, [&](std::size_t i, std::size_t step, std::size_t row) { rows[i] = at(sweep.x, step, row); });
    if constexpr (std::is_same_v<T, float>)
      if (storage == Storage::int8)
        return quantize_each_row(end - begin, sweep.I, to, [&](std::size_t i) { return rows[i]; });
    pack_each_row(end - begin, sweep.I, to, [&](std::size_t i) { return rows[i]; });
  }
};

// A vector of a row's units, from `unit` on. The row is the r-th of a block of `rows` rows that begins with row0.
struct Spot {
  std::size_t row0, rows, r, unit;

  std::size_t row() const { return row0 + r; }
};

// The rows of a batch in blocks that share a pass over a panel, each packed in k-blocks: where a row's elements lie.
struct RowBlocks {
  std::size_t B, K;

  std::size_t count() const { return (B + kRowBlock - 1) / kRowBlock; }
  std::size_t begin(std::size_t block) const { return B * block / count(); }
  std::size_t rows(std::size_t block) const { return begin(block + 1) - begin(block); }
  // f(first row, rows, those of them that are among the first `active`)
  template <class F>
  void each(std::size_t active, F f) const {
    for (std::size_t block = 0; block < count() && begin(block) < active; ++block)
      f(begin(block), rows(block), std::min(rows(block), active - begin(block)));
  }
  // Where a vector's elements are; its unit is a multiple of a vector's width.
  template <class T>
  T* at(T* packed, const Spot& spot) const {
    const std::size_t block = spot.unit / kBlock<T> * kBlock<T>;
    return packed + spot.row0 * K + spot.rows * block + spot.r * std::min(kBlock<T>, K - block) + (spot.unit - block);
  }
};

// f(sweep's index, first panel, last panel) for the panels that a thread owns, of `panels` in each of n sweeps; `grain`
// of them stay together.
template <class F>
void each_own(const Team& team, int n, std::size_t panels, std::size_t grain, F f) {
  const std::size_t grains = (panels + grain - 1) / grain;
  const Share own(std::size_t(n) * grains, 1, team.thread, team.threads);
  for (std::size_t i = 0; i < std::size_t(n); ++i) {
    const std::size_t first = std::max(own.begin, i * grains), last = std::min(own.end, (i + 1) * grains);
    if (first < last) f(i, (first - i * grains) * grain, std::min(panels, (last - i * grains) * grain));
  }
}

}  // namespace fusedstep::ISA
