// Sequences backward: the steps from last to first.
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
#include "cpu/norm_back.h"
#include "cpu/pairs.h"
#include "cpu/product.h"
#include "cpu/rnn.h"

namespace fusedstep::ISA {

// W_hh by panels of its columns, for products with the gates' gradients; then W_hr, for those with the gradient of h.
template <class Cell>
std::size_t columns_bytes(std::size_t H, std::size_t P) {
  using T = typename Cell::Scalar;
  return (columns_size<T>(Cell::gates * H, P) + (P < H ? columns_size<T>(P, H) : 0)) * sizeof(T);
}

template <class Cell>
void pack_columns(const CellWeights& w, std::size_t H, std::size_t P, void* columns) {
  using T = typename Cell::Scalar;
  const std::size_t K = Cell::gates * H;
  parallel(threads_for(4 * double(K * P)), [&](const Team& team) {
    pack_columns(team, as<T>(w.weight_hh), P, K, P, as<T>(columns));
    if (w.weight_hr) pack_columns(team, as<T>(w.weight_hr), H, P, H, as<T>(columns) + columns_size<T>(K, P));
  });
}

template <class Cell>
void sweep_back(const Sweep* sweeps, int n, std::size_t begin, std::size_t end) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using Late = typename Cell::LateGates;
  constexpr std::size_t N = V::size, S = Cell::saved, W = kColumns<T>, grain = owned_panels<Cell>(W);
  constexpr int G = Cell::gates;
  constexpr bool has_late = Late::count > 0, has_norms = Cell::layer_norm, has_output = has_norms && Cell::states > 1;
  constexpr int early = has_late ? Late::first : G;  // gates whose product sees h, not r·h
  const std::size_t B = sweeps[0].B, H = sweeps[0].H, P = sweeps[0].P;
  const bool projected = Cell::can_project && P < H;
  const RowBlocks blocks{B, H}, h_blocks{B, P};
  const std::size_t group = B == 1 ? kTilePanels<Columns::count> : 1;

  // Of each sweep: a step's gate gradients, packed, gate by gate, in one of two places by turns; and by panels of
  // columns dh in two parts, what passed W_hh and what did not, then the second state's gradient, and d(r·h). Of a
  // projection dh, packed, and dm, by panels. And what the norms sum.
  const std::size_t packed_size = std::size_t(G) * B * H, sums_size = column_panels<T>(H) * B * W,
                    n_sums = 1 + Cell::states + has_late + projected,
                    shared_size = 2 * packed_size + n_sums * sums_size + (projected ? B * P : 0);
  const std::size_t norm_size = RowSums{B, H, nullptr}.size(kNorms<Cell>);
  double* const all_sums =
      as<double>(scratch(std::size_t(n) * (norm_size * sizeof(double) + shared_size * sizeof(T)), 1));
  T* const shared = as<T>(static_cast<void*>(all_sums + std::size_t(n) * norm_size));
  struct View {
    std::size_t index;
    Pairs<T> pairs;
    T* packed[2];
    T *through, *direct, *dc, *dreset_h, *dm, *dh;
    RowSums norm_sums;
  };
  const auto view = [&](std::size_t i) {
    T* const from = shared + i * shared_size;
    const auto at = [&](std::size_t place) { return from + 2 * packed_size + place * sums_size; };
    return View{i,
                {sweeps[i]},
                {from, from + packed_size},
                at(0),
                at(1),
                at(2),
                at(1 + Cell::states),
                at(n_sums - 1),
                at(n_sums),
                {B, H, all_sums + i * norm_size}};
  };
  const bool dropping = sweeps[0].noise.recurrent > 0;
  const auto mask_of = [&](const View& v, std::size_t row, std::size_t unit) {
    const Sweep& of = v.pairs.sweep;
    return recurrent_mask<T>(of.noise, std::size_t(of.order[row]), unit);
  };
  const double weights = double(n) * double(H) * double(P) * (G + projected);
  parallel(threads_for_steps(end - begin, B, weights), [&](const Team& team) {
    Stays<T> stays;
    // f(view, row, first row and rows of its block, unit, lanes, place in what lies by panels), for own ones of `width`
    // units
    const auto each_vector = [&](std::size_t width, auto active, auto f) __attribute__((always_inline)) {
      each_own(team, n, column_panels<T>(width), grain, [&](std::size_t i, std::size_t first, std::size_t last) {
        const View v = view(i);
        blocks.each(active(v), [&](std::size_t row0, std::size_t rows, std::size_t live) {
          for (std::size_t r = 0; r < live; ++r)
            for (std::size_t unit = first * W; unit < std::min(width, last * W); unit += N)
              f(v, row0 + r, row0, rows, unit, width - unit, (unit / W * B + row0 + r) * W + unit % W);
        });
      });
    };
    const auto whole = [&](const View&) { return B; };
    const std::size_t means_size = RowValues<T>{B, nullptr}.size(kNorms<Cell>);
    T* const all_means = as<T>(scratch(std::size_t(n) * means_size * sizeof(T)));
    const auto means = [&](const View& v) { return RowValues<T>{B, all_means + v.index * means_size}; };
    each_vector(P, whole,
                [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit, std::size_t lanes,
                    std::size_t at) {
      store(v.direct + at, load_some<T>(v.pairs.row_of(v.pairs.sweep.dstate[0], row, P) + unit, lanes));
      store(v.through + at, V(T(-0.0)));  // what this is added to stays as it is, −0 too
    });
    if constexpr (Cell::states > 1)
      each_vector(H, whole,
                  [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit, std::size_t lanes,
                      std::size_t at) {
        store(v.dc + at, load_some<T>(v.pairs.row_of(v.pairs.sweep.dstate[1], row, H) + unit, lanes));
        if (projected) store(v.dm + at, V(T(0)));
      });

    for (std::size_t step = end; step-- > begin;) {
      const std::size_t turn = step & 1;
      const auto active = [&](const View& v) { return v.pairs.active(step); };
      // sums += rows · columns, for own ones of `width` columns; K values of each of `parts`, of which [from, to) count
      const auto add_product = [&](std::size_t width, T* View::* sums, auto rows_of, std::size_t columns_at,
                                   std::size_t K, int parts, int from, int to) {
        each_own(team, n, column_panels<T>(width), grain, [&](std::size_t i, std::size_t first, std::size_t last) {
          const View v = view(i);
          const T* const columns = as<T>(v.pairs.sweep.columns) + columns_at;
          const std::size_t part_size = K * W, panel_size = std::size_t(parts) * part_size;
          blocks.each(active(v), [&](std::size_t row0, std::size_t rows, std::size_t live) {
            for (std::size_t p = first; p < last; p += group)
              for (int part = from; part < to; ++part)
                accumulate<Columns::count, Columns>(
                    live, std::min(group, last - p), v.*sums + (p * B + row0) * W,
                    rows_of(v) + (std::size_t(part) * B + row0) * K, K,
                    PackedPanels<Columns, T>{columns + p * panel_size + std::size_t(part) * part_size, panel_size},
                    rows);
          });
        });
      };
      // The same with the gate gradients of gates [from, to).
      const auto product = [&](int from, int to, T* View::* sums) {
        add_product(P, sums, [&](const View& v) { return v.packed[turn]; }, 0, H, G, from, to);
      };
      const auto dh_of = [&](const View& v, std::size_t row, std::size_t unit, std::size_t lanes, std::size_t at)
                             __attribute__((always_inline)) {
        const Strided& dy = v.pairs.sweep.dy;
        const V dh = load<T>(v.direct + at) + load<T>(v.through + at);
        return dy.data ? load_some<T>(v.pairs.at(dy, step, row) + unit, lanes) + dh : dh;
      };

      if (projected) {
        each_vector(P, active,
                    [&](const View& v, std::size_t row, std::size_t row0, std::size_t rows, std::size_t unit,
                        std::size_t lanes, std::size_t at) {
          const Sweep& of = v.pairs.sweep;
          V dh = dh_of(v, row, unit, lanes, at), stayed(T(0));
          if (has_zoneout(of.noise.zoneout)) {
            stays.look_at(of.noise, step, std::size_t(of.order[row]), unit);
            stayed = select(stays.of[0], dh, V(T(0)));
            dh = select(stays.of[0], V(T(0)), dh);
          }
          store_some(as<T>(of.dh) + v.pairs.number(step, row) * P + unit, dh, lanes);
          store_some(h_blocks.at(v.dh, row0, rows, row - row0, unit), dh, lanes);
          store(v.direct + at, stayed);
          store(v.through + at, V(T(0)));
        });
        team.barrier();
        add_product(H, &View::dm, [](const View& v) { return v.dh; }, columns_size<T>(G * H, P), P, 1, 0, 1);
      }
      // f(view, row, unit) for own blocks of units
      const auto each_norm_block = [&](auto f) {
        each_own(team, n, column_panels<T>(H), grain, [&](std::size_t i, std::size_t first, std::size_t last) {
          const View v = view(i);
          for (std::size_t row = 0; row < active(v); ++row)
            for (std::size_t unit = first * W; unit < std::min(H, last * W); unit += kNormUnits) f(v, row, unit);
        });
      };
      // Each thread's copy of the rows' means.
      const auto combine = [&](int from, int to) {
        team.barrier();
        each_own(team, n, column_panels<T>(H), grain, [&](std::size_t i, std::size_t, std::size_t) {
          const View v = view(i);
          row_means<Cell>(v.norm_sums, active(v), from, to, means(v));
        });
      };
      if constexpr (has_output) {  // `direct` passes on what of dh comes to c′'s norm, `through` what zoneout keeps
        each_norm_block([&](const View& v, std::size_t row, std::size_t unit) {
          const Sweep& of = v.pairs.sweep;
          T d[kNormUnits] = {};
          const auto each_of_block = [&](auto f) {
            for (std::size_t i = 0; i < kNormUnits && unit + i < H; i += N)
              f(i, unit + i, ((unit + i) / W * B + row) * W + (unit + i) % W);
          };
          each_of_block([&](std::size_t i, std::size_t u, std::size_t at) {
            const V dh = dh_of(v, row, u, H - u, at), zero(T(0));
            store(d + i, dh);
            if (!has_zoneout(of.noise.zoneout)) return;
            stays.look_at(of.noise, step, std::size_t(of.order[row]), u);
            store(d + i, select(stays.of[0], zero, dh));
            store(v.through + at, select(stays.of[0], dh, zero));
          });
          output_back<Cell>(v.pairs, step, row, unit, d, v.norm_sums);
          each_of_block([&](std::size_t i, std::size_t, std::size_t at) { store(v.direct + at, load<T>(d + i)); });
        });
        combine(kGateNorms<Cell>, kNorms<Cell>);
      }

      each_vector(H, active,
                  [&](const View& v, std::size_t row, std::size_t row0, std::size_t rows, std::size_t unit,
                      std::size_t lanes, std::size_t at) __attribute__((always_inline)) {
        const Sweep& of = v.pairs.sweep;
        const std::size_t pair = v.pairs.number(step, row);
        T* const saved = as<T>(of.saved) + pair * S * H + unit;
        V a[S], s[Cell::states], next[Cell::states], ds[Cell::states], w[Cell::peepholes + 1], da[G], da_state[G];
        for (std::size_t j = 0; j < S; ++j) a[j] = load_some<T>(saved + j * H, lanes);
        if constexpr (!Cell::can_project) {
          const T* const h = dropping ? v.pairs.previous_h(step, row) : as<T>(of.previous_h) + pair * H;
          s[0] = h ? load_some<T>(h + unit, lanes) : V(T(0));
        }
        next[0] = V(T(0));
        ds[0] = projected ? load<T>(v.dm + at) : has_output ? load<T>(v.direct + at) : dh_of(v, row, unit, lanes, at);
        if constexpr (Cell::states > 1) {
          const T* const c = v.pairs.previous_c(step, row);
          s[1] = c ? load_some<T>(c + unit, lanes) : V(T(0));
          next[1] = load_some<T>(as<T>(of.states) + pair * H + unit, lanes);
          ds[1] = load<T>(v.dc + at);
        }
        for (int j = 0; j < Cell::peepholes; ++j)
          w[j] = load_some<T>(as<T>(of.weights.weight_ch) + std::size_t(j) * H + unit, lanes);
        const auto backward = [&]() __attribute__((always_inline)) {
          if constexpr (has_output)
            ds[1] = ds[1] + output_norm_backward<Cell>(of, pair, unit, ds[0], next[1], means(v), row);
          Cell::backward(a, s, next, ds, w, da, da_state);
        };
        const bool zoning = has_zoneout(of.noise.zoneout);
        V stayed[Cell::states];
        if (zoning) {
          stays.look_at(of.noise, step, std::size_t(of.order[row]), unit);
          if constexpr (has_output) stayed[0] = load<T>(v.through + at);
          for (int j = projected || has_output; j < Cell::states; ++j) {
            stayed[j] = select(stays.of[j], ds[j], V(T(0)));
            ds[j] = select(stays.of[j], V(T(0)), ds[j]);
          }
          if constexpr (Cell::states > 1) {
            next[1] = Cell::next_c(a, s);
            if (of.next_c) store_some(as<T>(of.next_c) + pair * H + unit, next[1], lanes);
          }
        }
        backward();
        if (zoning)
          for (int j = projected; j < Cell::states; ++j) ds[j] = ds[j] + stayed[j];
        for (int gate = has_late ? 1 : 0; gate < G; ++gate) {  // of a cell with two products r's waits, and r stays
          store_some(saved + std::size_t(gate) * H, da[gate], lanes);
          const V d = Cell::separate_state_gradients ? da_state[gate] : da[gate];
          if (Cell::state_slot[gate] != gate) store_some(saved + std::size_t(Cell::state_slot[gate]) * H, d, lanes);
          if constexpr (!has_norms)
            store_some(blocks.at(v.packed[turn] + std::size_t(gate) * B * H, row0, rows, row - row0, unit), d, lanes);
        }
        if (projected) {
          if constexpr (Cell::can_project)
            store_some(as<T>(of.m) + pair * H + unit, Cell::output(a[Cell::O], next[1]), lanes);
          store(v.dm + at, V(T(0)));
        } else {
          store(v.direct + at, ds[0]);
          store(v.through + at, V(T(0)));
        }
        if constexpr (Cell::states > 1) store(v.dc + at, v.pairs.reset(step, row) ? V(T(0)) : ds[1]);
        if constexpr (has_late) store(v.dreset_h + at, V(T(0)));
      });
      if constexpr (has_norms) {
        each_norm_block([&](const View& v, std::size_t row, std::size_t unit) {
          sum_gates<Cell>(v.pairs.sweep, v.pairs.number(step, row), unit, v.norm_sums, row);
        });
        combine(0, kGateNorms<Cell>);
        each_vector(H, active,
                    [&](const View& v, std::size_t row, std::size_t row0, std::size_t rows, std::size_t unit,
                        std::size_t lanes, std::size_t) __attribute__((always_inline)) {
          V d[Cell::accumulators];
          gate_norms_backward<Cell>(v.pairs.sweep, v.pairs.number(step, row), unit, means(v), row, d);
          for (int gate = 0; gate < G; ++gate)
            store_some(blocks.at(v.packed[turn] + std::size_t(gate) * B * H, row0, rows, row - row0, unit), d[G + gate],
                       lanes);
        });
      }
      team.barrier();
      if constexpr (has_late) {
        product(early, G, &View::dreset_h);
        each_vector(H, active,
                    [&](const View& v, std::size_t row, std::size_t row0, std::size_t rows, std::size_t unit,
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
        each_vector(P, active,
                    [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit, std::size_t,
                        std::size_t at) { store(v.through + at, load<T>(v.through + at) * mask_of(v, row, unit)); });
      if (sweeps[0].reset)
        each_vector(
            P, active,
            [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t at) {
          if (!v.pairs.reset(step, row)) return;
          store(v.direct + at, V(T(0)));
          store(v.through + at, V(T(0)));
        });
    }

    each_vector(P, whole,
                [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit, std::size_t lanes,
                    std::size_t at) {
      store_some(v.pairs.row_of(v.pairs.sweep.dstate[0], row, P) + unit,
                 load<T>(v.direct + at) + load<T>(v.through + at), lanes);
    });
    if constexpr (Cell::states > 1)
      each_vector(H, whole,
                  [&](const View& v, std::size_t row, std::size_t, std::size_t, std::size_t unit, std::size_t lanes,
                      std::size_t at) {
        store_some(v.pairs.row_of(v.pairs.sweep.dstate[1], row, H) + unit, load<T>(v.dc + at), lanes);
      });
  });
}

}  // namespace fusedstep::ISA
