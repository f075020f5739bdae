// What one thread does of a recurrent step: one hidden unit of one row, forward and backward, over the cells of
// csrc/rnn. The step kernels (pointwise.cuh) and the persistent ones (rnn.cuh) share it; they differ in where the
// products with W_hh come from.
//
// The preactivations are ((b_ih + b_hh) + x·W_ihᵗ) + h·W_hhᵗ.
#pragma once

#include <cstddef>

#include "core/fn.h"
#include "core/noise.h"
#include "cuda/lane.cuh"
#include "cuda/recurrence.h"
#include "rnn/cells.h"

namespace fusedstep::ISA {

template <class T>
FN T* as(void* p) {
  return static_cast<T*>(p);
}
template <class T>
FN const T* as(const void* p) {
  return static_cast<const T*>(p);
}

template <class T>
FN T* at(const Strided& array, std::size_t step, std::size_t row) {
  return as<T>(array.data) + std::ptrdiff_t(step) * array.step + std::ptrdiff_t(row) * array.row;
}

// Which unit of which row, and where what belongs to it lies.
template <class T>
struct Place {
  using V = Lane<T>;

  const Recurrence& r;
  std::size_t row, unit, length;

  FN Place(const Recurrence& recurrence, std::size_t of_row, std::size_t of_unit)
      : r(recurrence), row(of_row), unit(of_unit), length(r.lengths ? std::size_t(r.lengths[of_row]) : r.S) {}

  FN std::size_t own() const { return row * r.H + unit; }  // in (B, H)
  FN std::size_t time(std::size_t step) const { return r.reverse ? length - 1 - step : step; }
  FN std::size_t slot(std::size_t step) const { return r.reverse && !r.lengths ? r.S - 1 - step : step; }
  // Where a step's gates are in arrays over the caller's steps, and what belongs to it in (S, B, values, H).
  FN std::size_t gates_time(std::size_t step) const { return r.replayed ? step - r.first : time(step); }
  FN std::size_t pair(std::size_t step) const { return (r.replayed ? step - r.first : slot(step)) * r.B + row; }
  FN std::size_t in_slot(std::size_t step, int values) const { return pair(step) * std::size_t(values) * r.H + unit; }
  FN std::size_t in_states(std::size_t step) const { return (slot(step) * r.B + row) * r.H + unit; }
  FN bool reset(std::size_t step) const {
    return r.reset && step < length &&
           r.reset[std::ptrdiff_t(step) * r.ld_reset[0] + std::ptrdiff_t(row) * r.ld_reset[1]];
  }

  // h as W_hh sees it.
  FN V masked(V h) const { return r.mask ? h * V(as<T>(r.mask)[own()]) : h; }

  // The state before a step in which the row takes part, or before the first.
  FN V before(int state, std::size_t step, const T* previous) const {
    if (reset(step)) return V(T(0));
    return V(step ? *previous : as<T>(r.initial[state])[row * r.ld_initial[state] + unit]);
  }
  FN V previous_h(std::size_t step) const {
    return before(0, step, step ? at<T>(r.y, time(step - 1), row) + unit : nullptr);
  }
  FN V previous_c(std::size_t step) const {
    return before(1, step, step ? as<T>(r.states) + in_states(step - 1) : nullptr);
  }
  // The state before the first step that is taken.
  FN void begin() const {
    const std::size_t step = r.first, turn = step & 1;
    const bool ended = step > 0 && step >= length;
    const V h = ended ? V(T(0)) : previous_h(step);
    as<T>(r.h[turn])[own()] = h.raw;
    if (r.mask) as<T>(r.masked[turn])[own()] = masked(h).raw;
    if (r.c[turn]) as<T>(r.c[turn])[own()] = ended ? T(0) : previous_c(step).raw;
  }
  // The gradient of the state before it; `through` passed W_hh.
  FN void finish(T through) const {
    T& dh = as<T>(r.dh)[own()];
    if (length > 0) dh = reset(0) ? T(0) : dh + masked(V(through)).raw;
  }
};

// What the thread of a unit does.
template <class Cell>
struct Unit : Place<typename Cell::Scalar> {
  using T = typename Cell::Scalar;
  using V = Lane<T>;
  static constexpr int G = Cell::gates, A = Cell::accumulators, S = Cell::states;
  static constexpr bool has_late = Cell::LateGates::count > 0;
  static constexpr int state_gates = Cell::StateGates::count;

  using Place<T>::Place, Place<T>::r, Place<T>::row, Place<T>::unit, Place<T>::length;
  using Place<T>::own, Place<T>::time, Place<T>::gates_time, Place<T>::in_slot, Place<T>::in_states, Place<T>::reset,
      Place<T>::masked, Place<T>::previous_h, Place<T>::previous_c;

  // The gates of a vector (…·H), first + i for each, to their accumulators.
  template <class Gates>
  FN void add(const T* from, V* a) const {
    if (from)
      unroll<Gates::count>([&](auto i) {
        constexpr int to = Gates::accumulators[i];
        a[to] = a[to] + V(from[std::size_t(Gates::first + i) * r.H + unit]);
      });
  }
  FN void biases(V* a) const {
    unroll<A>([&](auto i) { a[i] = V(T(0)); });
    add<typename Cell::InputGates>(as<T>(r.bias_ih), a);
    add<typename Cell::StateGates>(as<T>(r.bias_hh), a);
    add<typename Cell::LateGates>(as<T>(r.bias_hh), a);
  }
  FN void peepholes(V* w) const {
    unroll<Cell::peepholes>([&](auto i) { w[i] = V(as<T>(r.weight_ch)[std::size_t(i) * r.H + unit]); });
  }
  FN T* input(std::size_t step) const { return at<T>(r.input, gates_time(step), row) + unit; }
  FN void load_input(std::size_t step, T* x) const {
    unroll<Cell::InputGates::count>([&](auto i) { x[i] = input(step)[std::size_t(i) * r.H]; });
  }
  // What the input's gates have, and then those of the products with W_hh: products(i) is that of its i-th gate.
  FN static void add_input(const T* x, V* a) {
    using Gates = typename Cell::InputGates;
    unroll<Gates::count>([&](auto i) {
      constexpr int to = Gates::accumulators[i];
      a[to] = a[to] + V(x[i]);
    });
  }
  template <class Gates, class F>
  FN static void add_products(F products, V* a) {
    unroll<Gates::count>([&](auto i) {
      constexpr int to = Gates::accumulators[i];
      a[to] = a[to] + V(products(i));
    });
  }

  // ---- forward

  FN void state(std::size_t step, V* s) const {
    s[0] = V(as<T>(r.h[step & 1])[own()]);
    if constexpr (S > 1) s[1] = V(as<T>(r.c[step & 1])[own()]);
  }
  // Of a row that has ended: the state goes on.
  FN void carry(std::size_t step, const V* s) const {
    as<T>(r.h[~step & 1])[own()] = s[0].raw;
    if (r.mask) as<T>(r.masked[~step & 1])[own()] = masked(s[0]).raw;
    if constexpr (S > 1) as<T>(r.c[~step & 1])[own()] = s[1].raw;
  }
  // r·h, which the second product takes; r and z go where x's products were.
  FN void reset_stage(std::size_t step, V* a, const V* s) const {
    as<T>(r.reset_h)[own()] = Cell::reset(a, masked(s[0])).raw;
    unroll<state_gates>([&](auto i) { input(step)[std::size_t(i) * r.H] = a[i].raw; });
  }
  // In: preactivations, but of a cell with two products r and z as `reset_stage` left them.
  FN void forward(std::size_t step, V* a, V* s, const V* w) const {
    Cell::forward(a, s, w);
    hand_on(step, s);
  }
  // s, what the cell made of the state, becomes the state after the step.
  FN void hand_on(std::size_t step, V* s) const {
    if (zones_out()) zone_out(step, s);
    const bool zero = reset(step + 1);
    const V h = zero ? V(T(0)) : s[0];
    as<T>(r.h[~step & 1])[own()] = h.raw;
    if (r.mask) as<T>(r.masked[~step & 1])[own()] = masked(h).raw;
    if constexpr (S > 1) as<T>(r.c[~step & 1])[own()] = zero ? T(0) : s[1].raw;
  }
  FN bool zones_out() const { return r.stays || has_zoneout(r.zoneout); }
  FN unsigned stays(std::size_t step) const { return r.stays[(step * r.B + row) * r.H + unit]; }
  // s ← what zoneout makes of it. The state before is read again: nothing has to keep it.
  FN void zone_out(std::size_t step, V* s) const {
    V before[S];
    state(step, before);
    const unsigned stay = r.stays ? stays(step) : 0;
    unroll<S>([&](auto i) {
      s[i] = r.stays ? select(bool(stay >> i & 1), before[i], s[i]) : zoneout_mean(r.zoneout[i], before[i], s[i]);
    });
  }
  // What nothing in the sweep waits for.
  FN void record(std::size_t step, const V* a, const V* s) const {
    record_gates(step, a);
    record_state(step, s);
  }
  FN T* saved(std::size_t step) const { return as<T>(r.saved) + in_slot(step, Cell::saved); }
  FN void record_gates(std::size_t step, const V* a) const {
    if (r.saved) unroll<Cell::values>([&](auto i) { saved(step)[std::size_t(i) * r.H] = a[i].raw; });
  }
  FN void record_state(std::size_t step, const V* s) const {
    if (r.y.data && !r.replayed) at<T>(r.y, time(step), row)[unit] = s[0].raw;
    if constexpr (S > 1)
      if (r.states && !r.replayed) as<T>(r.states)[in_states(step)] = s[1].raw;
  }

  // ---- backward

  // dh as it comes back from the steps after; `through` passed W_hh.
  FN V carried(std::size_t step, T through) const {
    const V direct(as<T>(r.dh)[own()]);
    if (step + 1 >= length) return direct;
    return reset(step + 1) ? V(T(0)) : direct + masked(V(through));
  }
  // What a step backward reads that no other unit's step gives.
  struct Read {
    V a[Cell::saved], s[S], next_c, dy;
  };
  FN Read read(std::size_t step) const {
    Read from;
    unroll<Cell::values>([&](auto i) { from.a[i] = V(saved(step)[std::size_t(i) * r.H]); });
    from.s[0] = previous_h(step);
    if constexpr (S > 1) {
      from.s[1] = previous_c(step);
      from.next_c = V(as<T>(r.states)[in_states(step)]);
    }
    if (r.dy.data) from.dy = V(at<T>(r.dy, time(step), row)[unit]);
    return from;
  }
  FN void give(void* to, std::size_t place, V value) const {
    if (to) as<T>(to)[place] = value.raw;
  }
  // carried: dh as it comes back from the steps after. Before the cell's own part, before(ds).
  template <class Before>
  FN void cell_backward(std::size_t step, const Read& from, V carried, const V* w, V* ds, V* da, V* da_state,
                        Before before) const {
    V next[S];
    next[0] = V(T(0));  // no cell looks at it
    ds[0] = r.dy.data ? from.dy + carried : carried;
    if constexpr (S > 1) {
      next[1] = from.next_c;
      ds[1] = V(as<T>(r.dc)[own()]);
    }
    give(r.previous_h, in_slot(step, 1), masked(from.s[0]));
    V stayed[S] = {};
    if (r.stays) {
      const unsigned stay = stays(step);
      unroll<S>([&](auto i) {
        const bool stays = stay >> i & 1;
        stayed[i] = stays ? ds[i] : V(T(0));
        ds[i] = stays ? V(T(0)) : ds[i];
      });
      if constexpr (S > 1) next[1] = Cell::next_c(from.a, from.s);
    }
    if constexpr (S > 1) give(r.next_c, in_slot(step, 1), next[1]);
    if constexpr (Cell::can_project)
      if (r.m) give(r.m, in_slot(step, 1), Cell::output(from.a[Cell::O], next[1]));
    before(ds);
    Cell::backward(from.a, from.s, next, ds, w, da, da_state);
    if (r.stays) unroll<S>([&](auto i) { ds[i] = ds[i] + stayed[i]; });
  }
  // ds, the gradients of the state before the step but for what passes W_hh.
  FN void hand_back(std::size_t step, const Read& from, const V* ds) const {
    as<T>(r.dh)[own()] = ds[0].raw;
    if constexpr (S > 1) {
      give(r.previous_c, in_slot(step, 1), from.s[1]);
      as<T>(r.dc)[own()] = reset(step) ? T(0) : ds[1].raw;
    }
  }
  FN void backward(std::size_t step, const Read& from, V carried, const V* w) const {
    V ds[S], da[G], da_state[G];
    cell_backward(step, from, carried, w, ds, da, da_state, [](V*) {});

    constexpr int first = has_late ? 1 : 0;  // r's gradient waits for the second product
    T* const dinput = at<T>(r.dinput, gates_time(step), row) + unit;
    unroll<G - first>([&](auto i) { dinput[std::size_t(i + first) * r.H] = da[i + first].raw; });
    unroll<state_gates - first>([&](auto i) {
      give(r.dstate, in_slot(step, state_gates) + std::size_t(i + first) * r.H,
           (Cell::separate_state_gradients ? da_state : da)[i + first]);
    });
    if constexpr (has_late) give(r.dlate, in_slot(step, 1), da[Cell::LateGates::first]);
    hand_back(step, from, ds);
  }
  // `product`: d(r·h).
  FN void reset_backward(std::size_t step, T product) const {
    const V gate(saved(step)[0]), h = masked(previous_h(step)), direct(as<T>(r.dh)[own()]);
    V dr, dh = r.mask ? V(T(0)) : direct;
    Cell::reset_backward(gate, h, V(product), dr, dh);
    if (r.mask) dh = fma(V(as<T>(r.mask)[own()]), dh, direct);
    at<T>(r.dinput, gates_time(step), row)[unit] = dr.raw;
    give(r.dstate, in_slot(step, state_gates), dr);
    give(r.all_reset_h, in_slot(step, 1), gate * h);
    as<T>(r.dh)[own()] = dh.raw;
  }
};

}  // namespace fusedstep::ISA
