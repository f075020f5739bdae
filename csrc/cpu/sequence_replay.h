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

template <class Cell>
void replay(const Sweep& sweep, std::size_t begin, std::size_t end) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using Input = typename Cell::InputGates;
  using State = typename Cell::StateGates;
  using Late = typename Cell::LateGates;
  constexpr int A = Cell::accumulators;
  constexpr std::size_t N = V::size, S = Cell::saved;
  constexpr bool has_late = Late::count > 0;
  const std::size_t I = sweep.I, H = sweep.H, P = sweep.P, pairs_here = end - begin;
  const Layout<Cell> layout{I, H, P};
  const Pairs<T> pairs{sweep};
  const T* const packed = as<T>(sweep.weights.packed);
  T* const saved = as<T>(sweep.saved);
  T* const previous_h = as<T>(sweep.previous_h);

  const double work = double(pairs_here) * double(H) * double(I * Input::count + P * (State::count + Late::count));
  parallel(threads_for(work), [&](const Team& team) {
    const std::size_t block = std::min(kRowBlock, pairs_here);
    T* const partial = as<T>(scratch(block * (A * N + I + P) * sizeof(T)));
    T* const x_room = partial + block * A * N;
    T* const h_room = x_room + block * I;
    // f(pair, unit, lanes, accumulators, the state before)
    const auto each_vector = [&](std::size_t first, std::size_t rows, std::size_t unit, auto f)
                                 __attribute__((always_inline)) {
      const std::size_t lanes = H - unit;
      pairs.each(first, first + rows,
                 [&](std::size_t i, std::size_t step, std::size_t row) __attribute__((always_inline)) {
        V s[Cell::states];
        if constexpr (!Cell::can_project) s[0] = load_some<T>(previous_h + (first + i) * H + unit, lanes);
        if constexpr (Cell::states > 1) {
          const T* const c = pairs.previous_c(step, row);
          s[1] = c ? load_some<T>(c + unit, lanes) : V(T(0));
        }
        f(first + i, lanes, partial + i * A * N, s);
      });
    };
    const auto finish = [&](std::size_t first, std::size_t rows, std::size_t panel) {
      each_vector(first, rows, panel * N,
                  [&](std::size_t pair, std::size_t lanes, T* at, V* s) __attribute__((always_inline)) {
        V a[A], w[Cell::peepholes + 1];
        for (int j = 0; j < A; ++j) a[j] = load<T>(at + j * N);
        for (int j = 0; j < Cell::peepholes; ++j) w[j] = load<T>(packed + panel * layout.size() + (A + j) * N);
        Cell::forward(a, s, w);
        for (std::size_t j = 0; j < S; ++j) store_some(saved + (pair * S + j) * H + panel * N, a[j], lanes);
      });
    };
    split_blocks(team, pairs_here, layout.panels(),
                 [&](std::size_t row, std::size_t rows, std::size_t first, std::size_t last) {
      pairs.pack_x(begin + row, begin + row + rows, Storage::same, x_room);
      pack_each_row(rows, P, h_room, [&](std::size_t i) { return previous_h + (begin + row + i) * P; });
      for (std::size_t p = first; p < last; ++p) {
        const T* const panel = packed + p * layout.size();
        for (std::size_t r = 0; r < rows; ++r) std::copy_n(panel, A * N, partial + r * A * N);
        accumulate<A, Input>(rows, 1, partial, x_room, I, PackedPanels<Input, T>{panel + Layout<Cell>::kStart, 0},
                             rows);
        accumulate<A, State>(rows, 1, partial, h_room, P, PackedPanels<State, T>{panel + layout.state(), 0}, rows);
        if constexpr (has_late)  // the rest waits for every unit's r·h
          each_vector(begin + row, rows, p * N,
                      [&](std::size_t pair, std::size_t lanes, T* at, V* s) __attribute__((always_inline)) {
            V a[A];
            for (int j = 0; j < A; ++j) a[j] = load<T>(at + j * N);
            store_some(as<T>(sweep.reset_h) + pair * H + p * N, Cell::reset(a, s[0]), lanes);
            for (std::size_t j = 0; j < S; ++j) store_some(saved + (pair * S + j) * H + p * N, a[j], lanes);
          });
        else if constexpr (Cell::layer_norm)  // and here for the rows' statistics
          each_vector(begin + row, rows, p * N,
                      [&](std::size_t pair, std::size_t lanes, const T* at, V*) __attribute__((always_inline)) {
            for (std::size_t j = 0; j < A; ++j)
              store_some(saved + (pair * S + Cell::values + j) * H + p * N, load<T>(at + j * N), lanes);
          });
        else
          finish(begin + row, rows, p);
      }
    });
    if constexpr (Cell::layer_norm) {
      team.barrier();
      replay_norms<Cell>(team, sweep, begin, end);
    }
    if constexpr (has_late) {
      static_assert(S == A);
      team.barrier();
      split_blocks(team, pairs_here, layout.panels(),
                   [&](std::size_t row, std::size_t rows, std::size_t first, std::size_t last) {
        pack_each_row(rows, H, h_room, [&](std::size_t i) { return as<T>(sweep.reset_h) + (begin + row + i) * H; });
        for (std::size_t p = first; p < last; ++p) {
          for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t j = 0; j < S; ++j)
              store(partial + (r * A + j) * N,
                    load_some<T>(saved + ((begin + row + r) * S + j) * H + p * N, H - p * N));
          accumulate<A, Late>(rows, 1, partial, h_room, H,
                              PackedPanels<Late, T>{packed + p * layout.size() + layout.late(), 0}, rows);
          finish(begin + row, rows, p);
        }
      });
    }
  });
}

}  // namespace fusedstep::ISA
