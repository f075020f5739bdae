// Sequences backward, before the steps: compact copies of what the sums over time read, and the gates again where the
// tape keeps none.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/noise.h"
#include "cpu/norm_back.h"
#include "cpu/pack.h"
#include "cpu/pairs.h"
#include "cpu/rnn.h"

namespace fusedstep::ISA {

// f(part's begin, part's end) for this thread's part of [begin, end).
template <class F>
void split(std::size_t begin, std::size_t end, F f) {
  const std::size_t n = end - begin;
  parallel(threads_for(double(n) * 64), [&](const Team& team) {
    const Share own(n, 1, team.thread, team.threads);
    f(begin + own.begin, begin + own.end);
  });
}

template <class T>
void gather(const Sweep& sweep, std::size_t first, std::size_t last) {
  const Pairs<T> pairs{sweep};
  const bool copy_x = sweep.compact_x != sweep.x.data;
  split(first, last, [&](std::size_t begin, std::size_t end) {
    pairs.each(begin, end, [&](std::size_t i, std::size_t step, std::size_t row) {
      const std::size_t pair = begin + i;
      if (copy_x) std::copy_n(pairs.at(sweep.x, step, row), sweep.I, as<T>(sweep.compact_x) + pair * sweep.ld_x);
      T* const to = as<T>(sweep.previous_h) + pair * sweep.P;
      const T* const from = pairs.previous_h(step, row);
      if (!from)
        std::fill_n(to, sweep.P, T(0));
      else if (sweep.noise.recurrent > 0)
        for (std::size_t unit = 0; unit < sweep.P; unit += std::size_t(Vec<T>::size))
          store_some(to + unit,
                     load_some<T>(from + unit, sweep.P - unit) *
                         recurrent_mask<T>(sweep.noise, std::size_t(sweep.order[row]), unit),
                     sweep.P - unit);
      else
        std::copy_n(from, sweep.P, to);
    });
  });
}

template <class T>
void scatter(const Sweep& sweep, const Strided& dx, bool add, std::size_t first, std::size_t last) {
  const Pairs<T> pairs{sweep};
  split(first, last, [&](std::size_t begin, std::size_t end) {
    pairs.each(begin, end, [&](std::size_t i, std::size_t step, std::size_t row) {
      const T* const d = as<T>(sweep.dx) + (begin + i) * sweep.I;
      T* const to = pairs.at(dx, step, row);
      for (std::size_t k = 0; k < sweep.I; ++k) to[k] = add ? to[k] + d[k] : d[k];
    });
  });
}

// One thread that computes pairs' gates again: the sweep's chains, for all pairs at once, panel by panel.
template <class Cell>
class ReplayThread {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  static constexpr int A = Cell::accumulators;
  static constexpr std::size_t N = V::size, kGates = A * N;
  static constexpr bool has_late = Cell::LateGates::count > 0;

 public:
  ReplayThread(const Sweep& sweep, const Team& team, std::size_t begin, std::size_t end)
      : sweep_(sweep),
        pairs_{sweep},
        team_(team),
        layout_{sweep.I, sweep.H, sweep.P},
        begin_(begin),
        end_(end),
        packed_(as<T>(sweep.weights.packed)),
        previous_h_(as<T>(sweep.previous_h)) {
    const std::size_t block = std::min(kRowBlock, end - begin);
    gates_ = as<T>(scratch(block * (kGates + sweep.I + sweep.P) * sizeof(T)));
    x_ = gates_ + block * kGates;
    h_ = x_ + block * sweep.I;
  }

  void run() {
    const std::size_t H = sweep_.H, P = sweep_.P;
    each_block([&](std::size_t pair, std::size_t rows, std::size_t first, std::size_t last) {
      pairs_.pack_x(pair, pair + rows, Storage::same, x_);
      pack_each_row(rows, P, h_, [&](std::size_t i) { return previous_h_ + (pair + i) * P; });
      for (std::size_t p = first; p < last; ++p) {
        start_accumulators<A>(panel(p), layout_.size(), rows, 1, gates_);
        add_product<typename Cell::InputGates>(rows, x_, sweep_.I, panel(p) + layout_.kStart);
        add_product<typename Cell::StateGates>(rows, h_, P, panel(p) + layout_.state());
        if constexpr (has_late)
          reset(pair, rows, p);
        else if constexpr (Cell::layer_norm)
          keep_accumulators(pair, rows, p);
        else
          close(pair, rows, p);
      }
    });
    if constexpr (Cell::layer_norm) {
      team_.barrier();
      replay_norms<Cell>(team_, sweep_, begin_, end_);
    }
    if constexpr (has_late) {
      static_assert(Cell::saved == A);
      team_.barrier();
      each_block([&](std::size_t pair, std::size_t rows, std::size_t first, std::size_t last) {
        pack_each_row(rows, H, h_, [&](std::size_t i) { return as<T>(sweep_.reset_h) + (pair + i) * H; });
        for (std::size_t p = first; p < last; ++p) {
          for (std::size_t r = 0; r < rows; ++r) {
            V a[A];
            load_saved<Cell, A>(sweep_.saved, pair + r, H, p * N, a);
            store_vectors<A>(gates_ + r * kGates, a);
          }
          add_product<typename Cell::LateGates>(rows, h_, H, panel(p) + layout_.late());
          close(pair, rows, p);
        }
      });
    }
  }

 private:
  const T* panel(std::size_t p) const { return packed_ + p * layout_.size(); }
  // f(first pair, pairs, first panel, last panel)
  template <class F>
  void each_block(F f) const {
    split_blocks(team_, end_ - begin_, layout_.panels(),
                 [&](std::size_t row, std::size_t rows, std::size_t first, std::size_t last) {
      f(begin_ + row, rows, first, last);
    });
  }
  template <class Gates>
  void add_product(std::size_t rows, const T* a, std::size_t K, const T* weights) const {
    accumulate<A, Gates>(rows, 1, gates_, a, K, PackedPanels<Gates, T>{weights, 0}, rows);
  }

  // The cell's mathematics.
  void close(std::size_t first, std::size_t rows, std::size_t p) const {
    each_vector(first, rows, p, [&](std::size_t pair, const T* at, V* s) __attribute__((always_inline)) {
      V a[A], w[Cell::peepholes + 1];
      load_vectors<A>(at, a);
      load_vectors<Cell::peepholes>(panel(p) + kGates, w);
      Cell::forward(a, s, w);
      store_saved<Cell>(sweep_.saved, pair, sweep_.H, p * N, a);
    });
  }
  // r·h; the rest waits for every unit's.
  void reset(std::size_t first, std::size_t rows, std::size_t p) const {
    each_vector(first, rows, p, [&](std::size_t pair, const T* at, V* s) __attribute__((always_inline)) {
      V a[A];
      load_vectors<A>(at, a);
      const V reset_h = Cell::reset(a, s[0]);
      store_some(as<T>(sweep_.reset_h) + pair * sweep_.H + p * N, reset_h, sweep_.H - p * N);
      store_saved<Cell>(sweep_.saved, pair, sweep_.H, p * N, a);
    });
  }
  // To where x̂ will be: the rest waits for the rows' statistics.
  void keep_accumulators(std::size_t first, std::size_t rows, std::size_t p) const {
    each_vector(first, rows, p, [&](std::size_t pair, const T* at, V*) __attribute__((always_inline)) {
      T* const to = as<T>(sweep_.saved) + (pair * Cell::saved + Cell::values) * sweep_.H + p * N;
      for (std::size_t j = 0; j < A; ++j) store_some(to + j * sweep_.H, load<T>(at + j * N), sweep_.H - p * N);
    });
  }
  // f(pair, accumulators, the state before) for a panel's units of consecutive pairs.
  template <class F>
  FN void each_vector(std::size_t first, std::size_t rows, std::size_t p, F f) const {
    const std::size_t unit = p * N, lanes = sweep_.H - unit;
    pairs_.each(first, first + rows,
                [&](std::size_t i, std::size_t step, std::size_t row) __attribute__((always_inline)) {
      V s[Cell::states];
      if constexpr (!Cell::can_project) s[0] = load_some<T>(previous_h_ + (first + i) * sweep_.H + unit, lanes);
      if constexpr (Cell::states > 1) s[1] = pairs_.previous_c(step, row, unit);
      f(first + i, gates_ + i * kGates, s);
    });
  }

  const Sweep& sweep_;
  const Pairs<T> pairs_;
  const Team& team_;
  const Layout<Cell> layout_;
  const std::size_t begin_, end_;
  const T *const packed_, *const previous_h_;
  T *gates_, *x_, *h_;  // a block's: accumulators of a panel, packed rows of x, of h or r·h
};

template <class Cell>
void replay(const Sweep& sweep, std::size_t begin, std::size_t end) {
  const double products =
      double(sweep.I) * Cell::InputGates::count + double(sweep.P) * (Cell::StateGates::count + Cell::LateGates::count);
  const double work = double(end - begin) * double(sweep.H) * products;
  parallel(threads_for(work), [&](const Team& team) { ReplayThread<Cell>(sweep, team, begin, end).run(); });
}

}  // namespace fusedstep::ISA
