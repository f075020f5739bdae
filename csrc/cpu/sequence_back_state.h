// Sequences backward: the gradient of the state between steps, as one thread moves what it owns of it, by panels of
// W_hh's columns.
//
// dh has two parts: what passed W_hh, which is a chain of its own, and what did not, to which the former is added once
// (a chain that began with the latter would round at its size each time, and lose three times the accuracy over a
// sequence).
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/noise.h"
#include "cpu/pairs.h"
#include "cpu/product.h"
#include "cpu/rnn.h"
#include "cpu/sequence_room.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

template <class T>
class BackState {
  using V = Vec<T>;
  using View = BackView<T>;
  static constexpr std::size_t N = V::size, W = kColumns<T>;

 public:
  // A thread owns `grain` panels together.
  BackState(const BackRoom<T>& room, const Team& team, std::size_t grain) : room_(room), team_(team), grain_(grain) {}

  // Which units of h and c zoneout left as they were.
  Stays<T> stays;

  // f(view, first panel, last panel) for own panels of `width` columns.
  template <class F>
  FN void each_own_panel(std::size_t width, F f) const {
    each_own(team_, room_.n, column_panels<T>(width), grain_,
             [&](std::size_t i, std::size_t first, std::size_t last) { f(room_.view(i), first, last); });
  }
  // f(view, spot, its place by panels) for every vector of own units, of `width`, and of the rows of a step.
  template <class F>
  FN void each_vector(std::size_t step, std::size_t width, F f) const {
    each_row_vector(width, [&](const View& v) { return v.pairs.active(step); }, f);
  }

  // The gradient of the state after the last step, from the caller's arrays.
  void load_all() const {
    each_of_all(room_.P, [&](const View& v, const Spot& at, std::size_t place) {
      store(v.direct + place,
            load_some<T>(v.pairs.row_of(v.pairs.sweep.dstate[0], at.row(), room_.P) + at.unit, room_.P - at.unit));
      store(v.through + place, V(T(-0.0)));  // what this is added to stays as it is, −0 too
    });
    if (room_.two_states)
      each_of_all(room_.H, [&](const View& v, const Spot& at, std::size_t place) {
        store(v.dc + place,
              load_some<T>(v.pairs.row_of(v.pairs.sweep.dstate[1], at.row(), room_.H) + at.unit, room_.H - at.unit));
        if (room_.projected) store(v.dm + place, V(T(0)));
      });
  }
  // That of the state before the first step, to them.
  void store_all() const {
    each_of_all(room_.P, [&](const View& v, const Spot& at, std::size_t place) {
      store_some(v.pairs.row_of(v.pairs.sweep.dstate[0], at.row(), room_.P) + at.unit,
                 load<T>(v.direct + place) + load<T>(v.through + place), room_.P - at.unit);
    });
    if (room_.two_states)
      each_of_all(room_.H, [&](const View& v, const Spot& at, std::size_t place) {
        store_some(v.pairs.row_of(v.pairs.sweep.dstate[1], at.row(), room_.H) + at.unit, load<T>(v.dc + place),
                   room_.H - at.unit);
      });
  }

  // dh after a step, of its y too.
  FN V dh_after(const View& v, std::size_t step, std::size_t row, std::size_t unit, std::size_t place) const {
    const Strided& dy = v.pairs.sweep.dy;
    const V dh = load<T>(v.direct + place) + load<T>(v.through + place);
    return dy.data ? load_some<T>(v.pairs.at(dy, step, row) + unit, room_.P - unit) + dh : dh;
  }
  V mask_of(const View& v, std::size_t row, std::size_t unit) const {
    const Sweep& of = v.pairs.sweep;
    return recurrent_mask<T>(of.noise, std::size_t(of.order[row]), unit);
  }

  // sums += the gradients of gates [from, to) · W_hh's columns
  void multiply_gates(std::size_t step, int from, int to, T* View::* sums) const {
    add_product(step, room_.P, sums, [&](const View& v) { return v.gates[step & 1]; }, 0, room_.H, room_.gates, from,
                to);
  }
  // dm of a projection: dh, which goes to the tape too, · W_hr's columns.
  void back_through_projection(std::size_t step) {
    const std::size_t P = room_.P, H = room_.H;
    each_vector(step, P, [&](const View& v, const Spot& at, std::size_t place) {
      const Sweep& of = v.pairs.sweep;
      V dh = dh_after(v, step, at.row(), at.unit, place), stayed(T(0));
      if (has_zoneout(of.noise.zoneout)) {
        stays.look_at(of.noise, step, std::size_t(of.order[at.row()]), at.unit);
        stays.split(0, dh, stayed);
      }
      store_some(as<T>(of.dh) + v.pairs.number(step, at.row()) * P + at.unit, dh, P - at.unit);
      store_some(room_.h_blocks.at(v.dh, at), dh, P - at.unit);
      store(v.direct + place, stayed);
      store(v.through + place, V(T(0)));
    });
    team_.barrier();
    add_product(step, H, &View::dm, [](const View& v) { return v.dh; }, columns_size<T>(room_.gates * H, P), P, 1, 0,
                1);
  }
  // What recurrent dropout and resets leave of dh before a step.
  void drop_and_reset(std::size_t step) const {
    if (room_.dropping)
      each_vector(step, room_.P, [&](const View& v, const Spot& at, std::size_t place) {
        store(v.through + place, load<T>(v.through + place) * mask_of(v, at.row(), at.unit));
      });
    if (room_.sweeps->reset)
      each_vector(step, room_.P, [&](const View& v, const Spot& at, std::size_t place) {
        if (!v.pairs.reset(step, at.row())) return;
        store(v.direct + place, V(T(0)));
        store(v.through + place, V(T(0)));
      });
  }

 private:
  template <class Rows, class F>
  FN void each_row_vector(std::size_t width, Rows rows_of, F f) const {
    each_own_panel(width, [&](const View& v, std::size_t first, std::size_t last) {
      room_.h_blocks.each(rows_of(v), [&](std::size_t row0, std::size_t rows, std::size_t live) {
        for (std::size_t r = 0; r < live; ++r)
          for (std::size_t unit = first * W; unit < std::min(width, last * W); unit += N)
            f(v, Spot{row0, rows, r, unit}, room_.in_panels(row0 + r, unit));
      });
    });
  }
  template <class F>
  void each_of_all(std::size_t width, F f) const {
    each_row_vector(width, [&](const View&) { return room_.B; }, f);
  }

  // sums += rows · columns, for own ones of `width` columns; K values of each of `parts`, of which [from, to) count.
  template <class F>
  void add_product(std::size_t step, std::size_t width, T* View::* sums, F rows_of, std::size_t columns_at,
                   std::size_t K, int parts, int from, int to) const {
    const std::size_t group = room_.B == 1 ? kTilePanels<Columns::count> : 1;
    each_own_panel(width, [&](const View& v, std::size_t first, std::size_t last) {
      const T* const columns = as<T>(v.pairs.sweep.columns) + columns_at;
      const std::size_t part_size = K * W, panel_size = std::size_t(parts) * part_size;
      room_.h_blocks.each(v.pairs.active(step), [&](std::size_t row0, std::size_t rows, std::size_t live) {
        for (std::size_t p = first; p < last; p += group)
          for (int part = from; part < to; ++part)
            accumulate<Columns::count, Columns>(
                live, std::min(group, last - p), v.*sums + (p * room_.B + row0) * W,
                rows_of(v) + (std::size_t(part) * room_.B + row0) * K, K,
                PackedPanels<Columns, T>{columns + p * panel_size + std::size_t(part) * part_size, panel_size}, rows);
      });
    });
  }

  const BackRoom<T>& room_;
  const Team& team_;
  const std::size_t grain_;
};

}  // namespace fusedstep::ISA
