// Sequences backward: the steps from last to first.
//
// A step's gate gradients are computed by the owners of their units, pass a barrier, and meet the columns of W_hh,
// which gives the part of dh that passed it (sequence_back_state.h).
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/noise.h"
#include "cpu/norm_back.h"
#include "cpu/pairs.h"
#include "cpu/product.h"
#include "cpu/rnn.h"
#include "cpu/sequence_back_state.h"
#include "cpu/sequence_room.h"
#include "cpu/threads.h"

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

// One thread of the sweeps: the gate gradients of the units that it owns, step by step.
template <class Cell>
class BackThread {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using View = BackView<T>;
  static constexpr std::size_t N = V::size, W = kColumns<T>, S = Cell::saved;
  static constexpr int G = Cell::gates;
  static constexpr bool has_late = Cell::LateGates::count > 0, has_norms = Cell::layer_norm,
                        has_output = has_norms && Cell::states > 1;
  static constexpr int early = has_late ? Cell::LateGates::first : G;  // gates whose product sees h, not r·h

 public:
  BackThread(const BackRoom<T>& room, const Team& team)
      : room_(room),
        team_(team),
        state_(room, team, owned_panels<Cell>(W)),
        means_size_(RowValues<T>{room.B, nullptr}.size(kNorms<Cell>)),
        means_(as<T>(scratch(std::size_t(room.n) * means_size_ * sizeof(T)))) {}

  void run(std::size_t begin, std::size_t end) {
    state_.load_all();
    for (step_ = end; step_-- > begin;) {
      if (projected()) state_.back_through_projection(step_);
      if constexpr (has_output) back_through_output_norm();
      state_.each_vector(step_, room_.H,
                         [&](const View& v, const Spot& at, std::size_t place)
                             __attribute__((always_inline)) { back_through_gates(v, at, place); });
      if constexpr (has_norms) back_through_gate_norms();
      team_.barrier();
      if constexpr (has_late) back_through_reset();
      state_.multiply_gates(step_, 0, early, &View::through);
      state_.drop_and_reset(step_);
    }
    state_.store_all();
  }

 private:
  bool projected() const { return Cell::can_project && room_.projected; }
  RowValues<T> means_of(const View& v) const { return {room_.B, means_ + v.index * means_size_}; }

  // Gate gradients of a vector of units, to the tape and to where their product reads them; then what of the state's
  // gradient passes no product.
  FN void back_through_gates(const View& v, const Spot& at, std::size_t place) {
    const Sweep& of = v.pairs.sweep;
    const std::size_t row = at.row(), unit = at.unit, H = room_.H, lanes = H - unit, pair = v.pairs.number(step_, row);
    V a[S], s[Cell::states], next[Cell::states], ds[Cell::states], w[Cell::peepholes + 1], da[G], da_state[G];
    load_saved<Cell, int(S)>(of.saved, pair, H, unit, a);
    load_peepholes<Cell>(of.weights, H, unit, w);
    if constexpr (!Cell::can_project) {
      const T* const h = room_.dropping ? v.pairs.previous_h(step_, row) : as<T>(of.previous_h) + pair * H;
      s[0] = h ? load_some<T>(h + unit, lanes) : V(T(0));
    }
    next[0] = V(T(0));
    ds[0] = projected()  ? load<T>(v.dm + place)
            : has_output ? load<T>(v.direct + place)
                         : state_.dh_after(v, step_, row, unit, place);
    if constexpr (Cell::states > 1) {
      s[1] = v.pairs.previous_c(step_, row, unit);
      next[1] = load_some<T>(as<T>(of.states) + pair * H + unit, lanes);
      ds[1] = load<T>(v.dc + place);
    }
    const bool zoning = has_zoneout(of.noise.zoneout);
    V stayed[Cell::states];
    if (zoning) {
      state_.stays.look_at(of.noise, step_, std::size_t(of.order[row]), unit);
      if constexpr (has_output) stayed[0] = load<T>(v.through + place);
      for (int j = projected() || has_output; j < Cell::states; ++j) state_.stays.split(j, ds[j], stayed[j]);
      if constexpr (Cell::states > 1) {
        next[1] = Cell::next_c(a, s);
        if (of.next_c) store_some(as<T>(of.next_c) + pair * H + unit, next[1], lanes);
      }
    }
    if constexpr (has_output)
      ds[1] = ds[1] + output_norm_backward<Cell>(of, pair, unit, ds[0], next[1], means_of(v), row);
    Cell::backward(a, s, next, ds, w, da, da_state);
    if (zoning)
      for (int j = projected(); j < Cell::states; ++j) ds[j] = ds[j] + stayed[j];
    store_gates(v, at, da, da_state);
    if (projected()) {
      if constexpr (Cell::can_project)
        store_some(as<T>(of.m) + pair * H + unit, Cell::output(a[Cell::O], next[1]), lanes);
      store(v.dm + place, V(T(0)));
    } else {
      store(v.direct + place, ds[0]);
      store(v.through + place, V(T(0)));
    }
    if constexpr (Cell::states > 1) store(v.dc + place, v.pairs.reset(step_, row) ? V(T(0)) : ds[1]);
    if constexpr (has_late) store(v.dreset_h + place, V(T(0)));
  }
  FN void store_gates(const View& v, const Spot& at, const V* da, const V* da_state) const {
    const std::size_t H = room_.H, lanes = H - at.unit;
    T* const saved = as<T>(v.pairs.sweep.saved) + v.pairs.number(step_, at.row()) * S * H + at.unit;
    for (int gate = has_late ? 1 : 0; gate < G; ++gate) {  // of a cell with two products r's waits, and r stays
      store_some(saved + std::size_t(gate) * H, da[gate], lanes);
      const V d = Cell::separate_state_gradients ? da_state[gate] : da[gate];
      if (Cell::state_slot[gate] != gate) store_some(saved + std::size_t(Cell::state_slot[gate]) * H, d, lanes);
      if constexpr (!has_norms) store_packed(v, at, gate, d);
    }
  }
  // A gate's gradient to where its product reads it.
  FN void store_packed(const View& v, const Spot& at, int gate, V d) const {
    T* const rows = v.gates[step_ & 1] + std::size_t(gate) * room_.B * room_.H;
    store_some(room_.unit_blocks.at(rows, at), d, room_.H - at.unit);
  }

  // d(r·h), and what of it comes to r and h.
  void back_through_reset() {
    state_.multiply_gates(step_, early, G, &View::dreset_h);
    state_.each_vector(step_, room_.H, [&](const View& v, const Spot& at, std::size_t place) {
      const std::size_t H = room_.H, lanes = H - at.unit, pair = v.pairs.number(step_, at.row());
      T* const saved = as<T>(v.pairs.sweep.saved) + pair * S * H + at.unit;
      const V r = load_some<T>(saved, lanes);
      const V h = load_some<T>(as<T>(v.pairs.sweep.previous_h) + pair * H + at.unit, lanes);
      V dr, direct = room_.dropping ? V(T(0)) : load<T>(v.direct + place);
      Cell::reset_backward(r, h, load<T>(v.dreset_h + place), dr, direct);
      if (room_.dropping) direct = fma(state_.mask_of(v, at.row(), at.unit), direct, load<T>(v.direct + place));
      store_some(saved, dr, lanes);
      store_packed(v, at, 0, dr);
      store(v.direct + place, direct);
      store_some(as<T>(v.pairs.sweep.reset_h) + pair * H + at.unit, r * h, lanes);
    });
    team_.barrier();
  }

  // Norms: `direct` passes on what of dh comes to c′'s, `through` what zoneout keeps.
  void back_through_output_norm() {
    each_own_norm_block([&](const View& v, std::size_t row, std::size_t unit) {
      const Sweep& of = v.pairs.sweep;
      T d[kNormUnits] = {};
      const auto each_of_block = [&](auto f) {
        for (std::size_t i = 0; i < kNormUnits && unit + i < room_.H; i += N)
          f(i, unit + i, room_.in_panels(row, unit + i));
      };
      each_of_block([&](std::size_t i, std::size_t u, std::size_t place) {
        V dh = state_.dh_after(v, step_, row, u, place), stayed;
        if (has_zoneout(of.noise.zoneout)) {
          state_.stays.look_at(of.noise, step_, std::size_t(of.order[row]), u);
          state_.stays.split(0, dh, stayed);
          store(v.through + place, stayed);
        }
        store(d + i, dh);
      });
      output_back<Cell>(v.pairs, step_, row, unit, d, v.sums);
      each_of_block([&](std::size_t i, std::size_t, std::size_t place) { store(v.direct + place, load<T>(d + i)); });
    });
    combine(kGateNorms<Cell>, kNorms<Cell>);
  }
  void back_through_gate_norms() {
    each_own_norm_block([&](const View& v, std::size_t row, std::size_t unit) {
      sum_gates<Cell>(v.pairs.sweep, v.pairs.number(step_, row), unit, v.sums, row);
    });
    combine(0, kGateNorms<Cell>);
    state_.each_vector(step_, room_.H, [&](const View& v, const Spot& at, std::size_t) __attribute__((always_inline)) {
      V d[Cell::accumulators];
      gate_norms_backward<Cell>(v.pairs.sweep, v.pairs.number(step_, at.row()), at.unit, means_of(v), at.row(), d);
      for (int gate = 0; gate < G; ++gate) store_packed(v, at, gate, d[G + gate]);
    });
  }
  template <class F>
  void each_own_norm_block(F f) {
    state_.each_own_panel(room_.H, [&](const View& v, std::size_t first, std::size_t last) {
      each_norm_block(v.sums, v.pairs.active(step_), first, last, W,
                      [&](std::size_t row, std::size_t unit) { f(v, row, unit); });
    });
  }
  // This thread's copy of the rows' means, past a barrier.
  void combine(int from, int to) {
    team_.barrier();
    state_.each_own_panel(room_.H, [&](const View& v, std::size_t, std::size_t) {
      row_means<Cell>(v.sums, v.pairs.active(step_), from, to, means_of(v));
    });
  }

  const BackRoom<T>& room_;
  const Team& team_;
  BackState<T> state_;
  const std::size_t means_size_;
  T* const means_;
  std::size_t step_ = 0;
};

template <class Cell>
void sweep_back(const Sweep* sweeps, int n, std::size_t begin, std::size_t end) {
  const std::size_t B = sweeps->B, H = sweeps->H, P = sweeps->P;
  const bool projected = Cell::can_project && P < H;
  const double weights = double(n) * double(H) * double(P) * (Cell::gates + projected);
  const BackRoom<typename Cell::Scalar> room(sweeps, n, Cell::gates, Cell::states > 1, Cell::LateGates::count > 0,
                                             kNorms<Cell>);
  parallel(threads_for_steps(end - begin, B, weights),
           [&](const Team& team) { BackThread<Cell>(room, team).run(begin, end); });
}

}  // namespace fusedstep::ISA
