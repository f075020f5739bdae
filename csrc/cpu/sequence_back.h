// Sequences backward: the steps from last to first, and what sums over time or needs no order, as large products.
//
// A step's gate gradients are computed by the owners of their units, pass a barrier, and meet the columns of W_hh: what
// comes of that is a chain of its own, to which the rest of dh is added (a chain that began with the rest would round
// at its size each time, and lose three times the accuracy over a sequence).
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/noise.h"
#include "cpu/rnn.h"
#include "cpu/sequence.h"

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
void gather(const Sweep& sweep) {
  const Pairs<T> pairs{sweep};
  const bool copy_x = sweep.compact_x != sweep.x.data;
  split(0, sweep.start[sweep.T], [&](std::size_t begin, std::size_t end) {
    pairs.each(begin, end, [&](std::size_t i, std::size_t step, std::size_t row) {
      const std::size_t pair = begin + i;
      if (copy_x)
        std::copy_n(pairs.at(sweep.x, step, row), sweep.I,
                    as<T>(const_cast<void*>(sweep.compact_x)) + pair * sweep.ld_x);
      T* const to = as<T>(sweep.previous_h) + pair * sweep.H;
      const T* const from = pairs.previous_h(step, row);
      if (!from)
        std::fill_n(to, sweep.H, T(0));
      else if (sweep.noise.recurrent > 0)
        for (std::size_t unit = 0; unit < sweep.H; unit += std::size_t(Vec<T>::size))
          store_some(to + unit,
                     load_some<T>(from + unit, sweep.H - unit) *
                         recurrent_mask<T>(sweep.noise, std::size_t(sweep.order[row]), unit),
                     sweep.H - unit);
      else
        std::copy_n(from, sweep.H, to);
    });
  });
}

// Compact rows of width I to their places in (T, B, I): written, or added to what is there.
template <class T>
void scatter(const Sweep& sweep, const void* from, const Strided& dx, bool add) {
  const Pairs<T> pairs{sweep};
  split(0, sweep.start[sweep.T], [&](std::size_t begin, std::size_t end) {
    pairs.each(begin, end, [&](std::size_t i, std::size_t step, std::size_t row) {
      const T* const d = as<T>(from) + (begin + i) * sweep.I;
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
  const std::size_t I = sweep.I, H = sweep.H, pairs_here = end - begin;
  const Layout<Cell> layout{I, H};
  const Pairs<T> pairs{sweep};
  const T* const packed = as<T>(sweep.weights.packed);
  T* const saved = as<T>(sweep.saved);
  T* const previous_h = as<T>(sweep.previous_h);

  const double work = double(pairs_here) * double(H) * double(I * Input::count + H * (State::count + Late::count));
  parallel(threads_for(work), [&](const Team& team) {
    const std::size_t block = std::min(kRowBlock, pairs_here);
    T* const partial = as<T>(scratch(block * (A * N + I + H) * sizeof(T)));
    T* const x_room = partial + block * A * N;
    T* const h_room = x_room + block * I;
    // f(pair, unit, lanes, accumulators, the state before)
    const auto each_vector = [&](std::size_t first, std::size_t rows, std::size_t unit, auto f)
                                 __attribute__((always_inline)) {
      const std::size_t lanes = H - unit;
      pairs.each(first, first + rows,
                 [&](std::size_t i, std::size_t step, std::size_t row) __attribute__((always_inline)) {
        V s[Cell::states];
        s[0] = load_some<T>(previous_h + (first + i) * H + unit, lanes);
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
      pack_each_row(rows, H, h_room, [&](std::size_t i) { return previous_h + (begin + row + i) * H; });
      for (std::size_t p = first; p < last; ++p) {
        const T* const panel = packed + p * layout.size();
        for (std::size_t r = 0; r < rows; ++r) std::copy_n(panel, A * N, partial + r * A * N);
        accumulate<A, Input>(rows, 1, partial, x_room, I, PackedPanels<Input, T>{panel + Layout<Cell>::kStart, 0},
                             rows);
        accumulate<A, State>(rows, 1, partial, h_room, H, PackedPanels<State, T>{panel + layout.state(), 0}, rows);
        if constexpr (has_late)  // the rest waits for every unit's r·h
          each_vector(begin + row, rows, p * N,
                      [&](std::size_t pair, std::size_t lanes, T* at, V* s) __attribute__((always_inline)) {
            V a[A];
            for (int j = 0; j < A; ++j) a[j] = load<T>(at + j * N);
            store_some(as<T>(sweep.reset_h) + pair * H + p * N, Cell::reset(a, s[0]), lanes);
            for (std::size_t j = 0; j < S; ++j) store_some(saved + (pair * S + j) * H + p * N, a[j], lanes);
          });
        else
          finish(begin + row, rows, p);
      }
    });
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

// W_hh by panels of its columns, for products with the gates' gradients.
template <class Cell>
std::size_t columns_bytes(std::size_t H) {
  using T = typename Cell::Scalar;
  return column_panels<T>(H) * kColumns<T> * Cell::gates * H * sizeof(T);
}

template <class Cell>
void pack_columns(const CellWeights& w, std::size_t H, void* columns) {
  using T = typename Cell::Scalar;
  const std::size_t K = Cell::gates * H;
  parallel(threads_for(4 * double(K * H)),
           [&](const Team& team) { pack_columns(team, as<T>(w.weight_hh), H, K, H, as<T>(columns)); });
}

template <class Cell>
void sweep_back(const Sweep* sweeps, int n, std::size_t begin, std::size_t end) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using Late = typename Cell::LateGates;
  constexpr std::size_t N = V::size, S = Cell::saved, W = kColumns<T>;
  constexpr int G = Cell::gates;
  constexpr bool has_late = Late::count > 0;
  constexpr int early = has_late ? Late::first : G;  // gates whose product sees h, not r·h
  const std::size_t B = sweeps[0].B, H = sweeps[0].H, panels = column_panels<T>(H);
  const RowBlocks blocks{B, H};
  const std::size_t group = B == 1 ? kTilePanels<Columns::count> : 1;

  // Of each sweep: a step's gate gradients, packed, gate by gate, in one of two places by turns; and by panels of
  // columns dh in two parts, what passed W_hh and what did not, then the second state's gradient, and d(r·h).
  const std::size_t packed_size = std::size_t(G) * B * H, sums_size = panels * B * W,
                    shared_size = 2 * packed_size + (1 + Cell::states + has_late) * sums_size;
  T* const shared = as<T>(scratch(std::size_t(n) * shared_size * sizeof(T), 1));
  struct View {
    Pairs<T> pairs;
    T* packed[2];
    T *through, *direct, *dc, *dreset_h;
  };
  const auto view = [&](std::size_t i) {
    T* const from = shared + i * shared_size;
    T* const sums = from + 2 * packed_size;
    return View{{sweeps[i]},      {from, from + packed_size}, sums,
                sums + sums_size, sums + 2 * sums_size,       sums + (1 + Cell::states) * sums_size};
  };
  const bool dropping = sweeps[0].noise.recurrent > 0;
  const auto mask_of = [&](const View& v, std::size_t row, std::size_t unit) {
    const Sweep& of = v.pairs.sweep;
    return recurrent_mask<T>(of.noise, std::size_t(of.order[row]), unit);
  };
  const double weights = double(n) * double(H) * double(H) * G;
  parallel(threads_for_steps(B, weights), [&](const Team& team) {
    // f(view, row, first row and rows of its block, unit, lanes, place in what lies by panels), for own units
    const auto each_vector = [&](auto active, auto f) __attribute__((always_inline)) {
      each_own(team, n, panels, [&](std::size_t i, std::size_t first, std::size_t last) {
        const View v = view(i);
        blocks.each(active(v), [&](std::size_t row0, std::size_t rows, std::size_t live) {
          for (std::size_t r = 0; r < live; ++r)
            for (std::size_t unit = first * W; unit < std::min(H, last * W); unit += N)
              f(v, row0 + r, row0, rows, unit, H - unit, (unit / W * B + row0 + r) * W + unit % W);
        });
      });
    };
    const auto whole = [&](const View&) { return B; };
    each_vector(whole, [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit,
                           std::size_t lanes, std::size_t at) {
      store(v.direct + at, load_some<T>(v.pairs.row_of(v.pairs.sweep.dstate[0], row) + unit, lanes));
      store(v.through + at, V(T(-0.0)));  // what this is added to stays as it is, −0 too
      if constexpr (Cell::states > 1)
        store(v.dc + at, load_some<T>(v.pairs.row_of(v.pairs.sweep.dstate[1], row) + unit, lanes));
    });

    for (std::size_t step = end; step-- > begin;) {
      const std::size_t turn = step & 1;
      const auto active = [&](const View& v) { return v.pairs.active(step); };
      // sums += gate gradients · columns, for gates [from, to); zeros where the state before the step was zeroed
      const auto product = [&](int from, int to, T* View::* sums) {
        each_own(team, n, panels, [&](std::size_t i, std::size_t first, std::size_t last) {
          const View v = view(i);
          const T* const columns = as<T>(v.pairs.sweep.columns);
          const std::size_t panel_size = std::size_t(G) * H * W;
          blocks.each(active(v), [&](std::size_t row0, std::size_t rows, std::size_t live) {
            for (std::size_t p = first; p < last; p += group)
              for (int gate = from; gate < to; ++gate)
                accumulate<Columns::count, Columns>(
                    live, std::min(group, last - p), v.*sums + (p * B + row0) * W,
                    v.packed[turn] + std::size_t(gate) * B * H + row0 * H, H,
                    PackedPanels<Columns, T>{columns + p * panel_size + std::size_t(gate) * H * W, panel_size}, rows);
          });
        });
      };

      each_vector(active, [&](const View& v, std::size_t row, std::size_t row0, std::size_t rows, std::size_t unit,
                              std::size_t lanes, std::size_t at) __attribute__((always_inline)) {
        const Sweep& of = v.pairs.sweep;
        const std::size_t pair = v.pairs.number(step, row);
        T* const saved = as<T>(of.saved) + pair * S * H + unit;
        V a[S], s[Cell::states], next[Cell::states], ds[Cell::states], w[Cell::peepholes + 1], da[G], da_state[G];
        for (std::size_t j = 0; j < S; ++j) a[j] = load_some<T>(saved + j * H, lanes);
        const T* const h = dropping ? v.pairs.previous_h(step, row) : as<T>(of.previous_h) + pair * H;
        s[0] = h ? load_some<T>(h + unit, lanes) : V(T(0));
        next[0] = V(T(0));
        ds[0] = load<T>(v.direct + at) + load<T>(v.through + at);
        if (of.dy.data) ds[0] = load_some<T>(v.pairs.at(of.dy, step, row) + unit, lanes) + ds[0];
        if constexpr (Cell::states > 1) {
          const T* const c = v.pairs.previous_c(step, row);
          s[1] = c ? load_some<T>(c + unit, lanes) : V(T(0));
          next[1] = load_some<T>(as<T>(of.states) + pair * H + unit, lanes);
          ds[1] = load<T>(v.dc + at);
        }
        for (int j = 0; j < Cell::peepholes; ++j)
          w[j] = load_some<T>(as<T>(of.weights.weight_ch) + std::size_t(j) * H + unit, lanes);
        if (has_zoneout(of.noise.zoneout)) {
          const Stays<T> stays(of.noise, step, std::size_t(of.order[row]), unit);
          V stayed[Cell::states];
          for (int j = 0; j < Cell::states; ++j) {
            stayed[j] = select(stays.of[j], ds[j], V(T(0)));
            ds[j] = select(stays.of[j], V(T(0)), ds[j]);
          }
          if constexpr (Cell::states > 1) {
            next[1] = Cell::next_c(a, s);
            if (of.next_c) store_some(as<T>(of.next_c) + pair * H + unit, next[1], lanes);
          }
          Cell::backward(a, s, next, ds, w, da, da_state);
          for (int j = 0; j < Cell::states; ++j) ds[j] = ds[j] + stayed[j];
        } else {
          Cell::backward(a, s, next, ds, w, da, da_state);
        }
        for (int gate = has_late ? 1 : 0; gate < G; ++gate) {  // of a cell with two products r's waits, and r stays
          store_some(saved + std::size_t(gate) * H, da[gate], lanes);
          const V d = Cell::separate_state_gradients ? da_state[gate] : da[gate];
          if (Cell::state_slot[gate] != gate) store_some(saved + std::size_t(Cell::state_slot[gate]) * H, d, lanes);
          store_some(blocks.at(v.packed[turn] + std::size_t(gate) * B * H, row0, rows, row - row0, unit), d, lanes);
        }
        store(v.direct + at, ds[0]);
        store(v.through + at, V(T(0)));
        if constexpr (Cell::states > 1) store(v.dc + at, v.pairs.reset(step, row) ? V(T(0)) : ds[1]);
        if constexpr (has_late) store(v.dreset_h + at, V(T(0)));
      });
      team.barrier();
      if constexpr (has_late) {
        product(early, G, &View::dreset_h);
        each_vector(active, [&](const View& v, std::size_t row, std::size_t row0, std::size_t rows, std::size_t unit,
                                std::size_t lanes, std::size_t at) __attribute__((always_inline)) {
          const std::size_t pair = v.pairs.number(step, row);
          T* const saved = as<T>(v.pairs.sweep.saved) + pair * S * H + unit;
          const V r = load_some<T>(saved, lanes);
          const V h = load_some<T>(as<T>(v.pairs.sweep.previous_h) + pair * H + unit, lanes);
          V dr, direct = dropping ? V(T(0)) : load<T>(v.direct + at);
          Cell::reset_backward(r, h, load<T>(v.dreset_h + at), dr, direct);
          if (dropping) direct = fma(mask_of(v, row, unit), direct, load<T>(v.direct + at));
          store_some(saved, dr, lanes);
          store_some(blocks.at(v.packed[turn], row0, rows, row - row0, unit), dr, lanes);
          store(v.direct + at, direct);
          store_some(as<T>(v.pairs.sweep.reset_h) + pair * H + unit, r * h, lanes);
        });
        team.barrier();
      }
      product(0, early, &View::through);
      if (dropping)
        each_vector(active,
                    [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit, std::size_t,
                        std::size_t at) { store(v.through + at, load<T>(v.through + at) * mask_of(v, row, unit)); });
      if (sweeps[0].reset)
        each_vector(active, [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t, std::size_t,
                                std::size_t at) {
          if (!v.pairs.reset(step, row)) return;
          store(v.direct + at, V(T(0)));
          store(v.through + at, V(T(0)));
        });
    }

    each_vector(whole, [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit,
                           std::size_t lanes, std::size_t at) {
      store_some(v.pairs.row_of(v.pairs.sweep.dstate[0], row) + unit, load<T>(v.direct + at) + load<T>(v.through + at),
                 lanes);
      if constexpr (Cell::states > 1)
        store_some(v.pairs.row_of(v.pairs.sweep.dstate[1], row) + unit, load<T>(v.dc + at), lanes);
    });
  });
}

// sums[column] += each of the n rows of a matrix, for this thread's columns; f(column, its sum).
template <class T, class F>
void sum_rows(const Team& team, const T* a, std::size_t n, std::size_t columns, double* sums, F f) {
  using D = Vec<double>;
  constexpr std::size_t side = 8, width = side * D::size;
  const Share own((columns + width - 1) / width, 1, team.thread, team.threads);
  for (std::size_t first = own.begin * width; first < std::min(columns, own.end * width); first += width) {
    const std::size_t some = std::min(width, columns - first);
    if (some == width) {
      D sum[side];
      unroll<side>([&](auto i) __attribute__((always_inline)) { sum[i] = load<double>(sums + first + i * D::size); });
      for (std::size_t row = 0; row < n; ++row)
        unroll<side>([&](auto i) __attribute__((always_inline)) {
          sum[i] = sum[i] + widen<D>(a + row * columns + first + i * D::size);
        });
      unroll<side>([&](auto i) __attribute__((always_inline)) { store(sums + first + i * D::size, sum[i]); });
    } else {
      for (std::size_t row = 0; row < n; ++row)
        for (std::size_t i = 0; i < some; ++i) sums[first + i] += double(a[row * columns + first + i]);
    }
    for (std::size_t i = 0; i < some; ++i) f(first + i, sums[first + i]);
  }
}

template <class Cell>
void gradients(const Sweep& sweep, std::size_t begin, std::size_t end, bool add) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  constexpr std::size_t N = V::size, S = Cell::saved, G = Cell::gates;
  constexpr bool has_late = Cell::LateGates::count > 0;
  const std::size_t I = sweep.I, H = sweep.H, n = end - begin, ld = S * H, GH = G * H;
  const bool more = add || begin > 0;  // what is there are sums already
  const T* const d = as<T>(sweep.saved) + begin * ld;
  const Pairs<T> pairs{sweep};

  // The right-hand sides, packed: W_ih, x, h before each step, r·h.
  const auto size = [](std::size_t K, std::size_t columns) { return column_panels<T>(columns) * kColumns<T> * K; };
  const std::size_t w_size = sweep.dx ? size(GH, I) : 0, x_size = size(n, I), h_size = size(n, H);
  T* const w = as<T>(scratch((w_size + x_size + (1 + has_late) * h_size) * sizeof(T), 1));
  T* const x = w + w_size;
  T* const h = x + x_size;
  T* const reset_h = h + h_size;

  parallel(threads_for(2 * double(n) * double(H) * double(G) * double(I + H)), [&](const Team& team) {
    if (sweep.dx) pack_columns(team, as<T>(sweep.weights.weight_ih), I, GH, I, w);
    pack_columns(team, as<T>(sweep.compact_x) + begin * sweep.ld_x, sweep.ld_x, n, I, x);
    pack_columns(team, as<T>(sweep.previous_h) + begin * H, H, n, H, h);
    if constexpr (has_late) pack_columns(team, as<T>(sweep.reset_h) + begin * H, H, n, H, reset_h);
    team.barrier();

    if (sweep.dx)
      multiply(team, Sum::Chain, n, GH, d, ld, 1, PackedColumns<T>{w, GH, I}, as<T>(sweep.dx) + begin * sweep.ld_dx,
               sweep.ld_dx);
    multiply(team, Sum::Blocks, GH, n, d, 1, ld, PackedColumns<T>{x, n, I}, as<T>(sweep.dweight_ih), I, more);
    for (std::size_t gate = 0; gate < G; ++gate) {
      const T* const dgate = d + std::size_t(Cell::state_slot[gate]) * H;
      const bool late = has_late && gate >= std::size_t(Cell::LateGates::first);
      multiply(team, Sum::Blocks, H, n, dgate, 1, ld, PackedColumns<T>{late ? reset_h : h, n, H},
               as<T>(sweep.dweight_hh) + gate * H * H, H, more);
    }
    if (sweep.dbias_ih)
      sum_rows(team, d, n, ld, sweep.bias_sums, [&](std::size_t column, double sum) {
        if (end < sweep.start[sweep.T]) return;  // the sums go on
        const std::size_t slot = column / H, unit = column % H;
        const auto give = [&](void* bias, std::size_t gate) {
          T& to = as<T>(bias)[gate * H + unit];
          to = T(add ? double(to) + sum : sum);
        };
        for (std::size_t gate = 0; gate < G; ++gate) {
          if (gate == slot) give(sweep.dbias_ih, gate);
          if (std::size_t(Cell::state_slot[gate]) == slot) give(sweep.dbias_hh, gate);
        }
      });
    if constexpr (Cell::peepholes > 0) {
      const Share own((H + N - 1) / N, 1, team.thread, team.threads);
      for (std::size_t unit = own.begin * N; unit < std::min(H, own.end * N); unit += N)
        for (std::size_t j = 0; j < std::size_t(Cell::peepholes); ++j) {
          T* const to = as<T>(sweep.dweight_ch) + j * H + unit;
          V total = more ? load_some<T>(to, H - unit) : V(T(0)), sum(T(0));
          pairs.each(begin, end, [&](std::size_t i, std::size_t step, std::size_t row) {
            const T* const c = Cell::peephole_sees_next[j]
                                   ? as<T>(sweep.next_c ? sweep.next_c : sweep.states) + (begin + i) * H
                                   : pairs.previous_c(step, row);
            if (c)
              sum = fma(load_some<T>(d + i * ld + std::size_t(Cell::peephole_gate[j]) * H + unit, H - unit),
                        load_some<T>(c + unit, H - unit), sum);
            if ((i + 1) % kSumBlock == 0 || begin + i + 1 == end) {
              total = total + sum;
              sum = V(T(0));
            }
          });
          store_some(to, total, H - unit);
        }
    }
  });
}

}  // namespace fusedstep::ISA
