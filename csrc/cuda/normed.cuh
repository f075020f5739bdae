// The kernels of a step of a cell that normalises rows: a block of threads for each row, forward and backward.
//
// A row is taken several times, with a sum over it in between (row_sums.cuh). Between two passes a thread finds in
// memory what it left there itself, of its own units; threads share nothing but the sums.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/recurrence.cuh"
#include "cuda/row_sums.cuh"
#include "rnn/norm.h"

namespace fusedstep::ISA {

// What the thread of a unit does.
template <class Cell>
struct NormedUnit : Unit<Cell> {
  using Base = Unit<Cell>;
  using Base::A, Base::G, Base::S;
  using Base::r, Base::row, Base::unit, Base::length, Base::own, Base::saved, Base::in_slot;
  using typename Base::T, typename Base::V, typename Base::Read;
  static_assert(A == 2 * G && Base::state_gates == G);
  static constexpr int of_gates = kGateNorms<Cell>;
  static constexpr bool has_output = S > 1;  // c′ is normalised

  using Base::Base;

  // Accumulator j of two vectors of gates, by W_ih and by W_hh.
  FN V of_accumulator(int j, const void* by_ih, const void* by_hh) const {
    const T* const from = as<T>(j < G ? by_ih : by_hh);
    return V(from ? from[std::size_t(j % G) * r.H + unit] : T(0));
  }
  FN V gain(int j) const { return of_accumulator(j, r.gain_ih, r.gain_hh); }
  FN V bias(int j) const { return of_accumulator(j, r.bias_ih, r.bias_hh); }
  FN T& hidden(int gate) const { return as<T>(r.hidden)[(row * std::size_t(G) + std::size_t(gate)) * r.H + unit]; }
  FN T& normalized(std::size_t step, int j) const { return saved(step)[std::size_t(Cell::values + j) * r.H]; }
  FN T* statistics(std::size_t step) const { return as<T>(r.statistics) + Base::pair(step) * 2 * kNorms<Cell>; }

  // ---- forward

  FN void products(std::size_t step, V* a) const {
    const T* const x = Base::input(step);
    unroll<G>([&](auto i) {
      a[i] = V(x[std::size_t(i) * r.H]);
      a[G + i] = V(hidden(i));
    });
  }
  // a become γ·x̂ + β, by the statistics of their norms.
  FN void normalize(std::size_t step, const T (*statistics)[2], V* a) const {
    unroll<of_gates>([&](auto k) {
      constexpr int first = Cell::norms[k].first;
      unroll<Cell::norms[k].count>([&](auto i) {
        constexpr int j = first + i;
        const V x = norm_forward(a[j], V(statistics[k][0]), V(statistics[k][1]));
        if (r.saved) normalized(step, j) = x.raw;
        a[j] = fma(gain(j), x, bias(j));
      });
    });
  }
  // γ·N(c′) + β, and N(c′).
  FN V gain_c() const { return V(as<T>(r.gain_c)[unit]); }
  FN V normed_output(V c, const T* statistics, V& x) const {
    x = norm_forward(c, V(statistics[0]), V(statistics[1]));
    return fma(gain_c(), x, V(r.bias_c ? as<T>(r.bias_c)[unit] : T(0)));
  }

  // ---- backward

  FN V carried(std::size_t step) const {
    return Base::carried(step, step + 1 < length ? as<T>(r.through)[own()] : T(0));
  }
  // The gradient of what becomes of c′, kept as N(c′) is; o's replaces o.
  FN void output_backward(std::size_t step, V& du, V& x) const {
    const Read from = Base::read(step);
    V dh = r.dy.data ? from.dy + carried(step) : carried(step), c = from.next_c, d_o;
    if (r.stays) {
      if (Base::stays(step) & 1) dh = V(T(0));
      c = Cell::next_c(from.a, from.s);
    }
    const V normed = normed_output(c, statistics(step) + 2 * of_gates, x);
    du = V(T(0));
    Cell::output_backward(from.a[Cell::O], normed, dh, d_o, du);
    saved(step)[std::size_t(Cell::O) * r.H] = d_o.raw;
    as<T>(r.normed_c)[in_slot(step, 1)] = x.raw;
    as<T>(r.dnormed_c)[in_slot(step, 1)] = du.raw;
  }
  // The gates' gradients, in place of the gates. means: of c′'s norm.
  FN void gates_backward(std::size_t step, const T* means) const {
    const Read from = Base::read(step);
    V ds[S], da[G], da_state[G];
    Base::cell_backward(step, from, carried(step), nullptr, ds, da, da_state, [&](V* of_state) {
      if constexpr (has_output) {
        const V du(as<T>(r.dnormed_c)[in_slot(step, 1)]), x(as<T>(r.normed_c)[in_slot(step, 1)]),
            scale(statistics(step)[2 * of_gates + 1]);
        of_state[1] = of_state[1] + norm_backward(du * gain_c(), x, scale, V(means[0]), V(means[1]));
      }
    });
    Base::hand_back(step, from, ds);
    unroll<G>([&](auto i) {
      constexpr int slot = Cell::state_slot[i];
      saved(step)[std::size_t(i) * r.H] = da[i].raw;
      if (slot != i) saved(step)[std::size_t(slot) * r.H] = da_state[i].raw;
    });
  }
  FN V dy(std::size_t step, int j) const { return V(saved(step)[value_slot<Cell>(j) * r.H]); }
  // From there to the gradients of the products.
  FN void norms_backward(std::size_t step, const T (*means)[2]) const {
    T* const dinput = at<T>(r.dinput, Base::gates_time(step), row) + unit;
    T* const dstate = as<T>(r.dstate) + in_slot(step, G);
    unroll<of_gates>([&](auto k) {
      constexpr int first = Cell::norms[k].first;
      const V scale(statistics(step)[2 * k + 1]);
      unroll<Cell::norms[k].count>([&](auto i) {
        constexpr int j = first + i;
        const V x(normalized(step, j));
        (j < G ? dinput : dstate)[std::size_t(j % G) * r.H] =
            norm_backward(dy(step, j) * gain(j), x, scale, V(means[k][0]), V(means[k][1])).raw;
      });
    });
  }
};

template <class Cell>
__global__ void __launch_bounds__(kRowThreads, 1)
    normed_forward_kernel(const Recurrence __grid_constant__ r, const std::size_t step) {
  using U = NormedUnit<Cell>;
  using V = typename U::V;
  constexpr int of_gates = U::of_gates, all = kNorms<Cell>;
  const SharedSums<Cell> sums(r.H);
  const std::size_t row = blockIdx.x;
  const auto mine = [&](std::size_t unit) { return unit < r.H; };
  if (step >= U(r, row, 0).length)
    return each_unit_of_row(r.H, [&](std::size_t unit) {
      if (!mine(unit)) return;
      const U own(r, row, unit);
      V s[U::S];
      own.state(step, s);
      own.carry(step, s);
    });

  each_unit_of_row(r.H, [&](std::size_t unit) {
    V a[U::A];
    if (mine(unit)) U(r, row, unit).products(step, a);
    unroll<of_gates>([&](auto k) {
      constexpr int first = Cell::norms[k].first;
      sums.template leave_moments<Cell::norms[k].count>(k, unit, a + first);
    });
  });
  sums.template statistics<0, of_gates>();
  each_unit_of_row(r.H, [&](std::size_t unit) {
    V c;
    if (mine(unit)) {
      const U own(r, row, unit);
      V a[U::A], s[U::S];
      own.products(step, a);
      own.normalize(step, sums.values.of, a);
      own.state(step, s);
      Cell::forward(a, s, static_cast<const V*>(nullptr));
      own.record_gates(step, a);
      if constexpr (U::has_output) {
        own.hidden(0) = a[Cell::O].raw;
        own.hidden(1) = s[1].raw;
      } else {
        own.hand_on(step, s);
        own.record_state(step, s);
      }
      c = s[U::S - 1];
    }
    if constexpr (U::has_output) sums.template leave_moments<1>(of_gates, unit, &c);
  });
  if constexpr (U::has_output) {
    sums.template statistics<of_gates, all>();
    each_unit_of_row(r.H, [&](std::size_t unit) {
      if (!mine(unit)) return;
      const U own(r, row, unit);
      V x, s[U::S];
      s[1] = V(own.hidden(1));
      s[0] = Cell::output(V(own.hidden(0)), own.normed_output(s[1], sums.values.of[of_gates], x));
      own.hand_on(step, s);
      own.record_state(step, s);
    });
  }
  if (r.statistics && threadIdx.x < 2 * all)
    U(r, row, 0).statistics(step)[threadIdx.x] = sums.values.of[threadIdx.x / 2][threadIdx.x % 2];
}

template <class Cell>
__global__ void __launch_bounds__(kRowThreads, 1)
    normed_backward_kernel(const Recurrence __grid_constant__ r, const std::size_t step) {
  using U = NormedUnit<Cell>;
  using V = typename U::V;
  constexpr int of_gates = U::of_gates, all = kNorms<Cell>;
  const SharedSums<Cell> sums(r.H);
  const std::size_t row = blockIdx.x;
  const auto mine = [&](std::size_t unit) { return unit < r.H; };
  if (step >= U(r, row, 0).length) return;

  if constexpr (U::has_output) {
    each_unit_of_row(r.H, [&](std::size_t unit) {
      V du, x, gain;
      if (mine(unit)) {
        const U own(r, row, unit);
        own.output_backward(step, du, x);
        gain = own.gain_c();
      }
      sums.template leave_sums<1>(of_gates, unit, &du, &x, &gain);
    });
    sums.template means<of_gates, all>();
  }
  each_unit_of_row(r.H, [&](std::size_t unit) {
    const U own(r, row, unit);
    if (mine(unit)) own.gates_backward(step, sums.values.of[all - 1]);
    unroll<of_gates>([&](auto k) {
      constexpr int first = Cell::norms[k].first, count = Cell::norms[k].count;
      V dy[count], x[count], gain[count];
      if (mine(unit))
        unroll<count>([&](auto i) {
          dy[i] = own.dy(step, first + i);
          x[i] = V(own.normalized(step, first + i));
          gain[i] = own.gain(first + i);
        });
      sums.template leave_sums<count>(k, unit, dy, x, gain);
    });
  });
  sums.template means<0, of_gates>();
  each_unit_of_row(r.H, [&](std::size_t unit) {
    if (mine(unit)) U(r, row, unit).norms_backward(step, sums.values.of);
  });
}

}  // namespace fusedstep::ISA
