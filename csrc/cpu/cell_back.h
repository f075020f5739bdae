// One step of a recurrent cell, backward, over B rows: gradients of the gates, then plain products with the weights,
// and sums over the batch.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/product.h"
#include "cpu/rnn.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

// What the threads of a step share.
template <class Cell>
struct StepBackRoom {
  using T = typename Cell::Scalar;
  static constexpr std::size_t G = Cell::gates;
  static constexpr bool has_late = Cell::LateGates::count > 0, separate = Cell::separate_state_gradients;

  // (B, G·H): gradients of the preactivations as the input's product sees them, and as the state's does.
  T *dgates, *dgates_state;
  T* dweight_ch;          // (peepholes, B, H): terms of their gradients
  T *reset_h, *dreset_h;  // (B, H), where the cell has a second product
  T* through;             // (B, H): what of dh passed W_hh

  explicit StepBackRoom(const CellBackward& call) {
    const std::size_t size = call.B * call.H;
    dgates = as<T>(scratch((G * (1 + separate) + Cell::peepholes + 2 * has_late + 1) * size * sizeof(T), 1));
    dgates_state = dgates + separate * G * size;
    dweight_ch = dgates_state + G * size;
    reset_h = dweight_ch + Cell::peepholes * size;
    dreset_h = reset_h + has_late * size;
    through = dreset_h + has_late * size;
  }
};

template <class Cell>
class StepBackThread {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  static constexpr std::size_t N = V::size, G = Cell::gates;
  static constexpr bool has_late = Cell::LateGates::count > 0;
  static constexpr std::size_t early = has_late ? Cell::LateGates::first : G;  // gates whose product sees h, not r·h

 public:
  StepBackThread(const CellBackward& call, const StepBackRoom<Cell>& room, const Team& team)
      : call_(call), room_(room), team_(team) {}

  void run() {
    each_vector([&](std::size_t row, std::size_t unit) { back_through_gates(row, unit); });
    team_.barrier();
    if constexpr (has_late) back_through_reset();
    const CellWeights& w = call_.weights;
    multiply(team_, Sum::chain, B, G * H, room_.dgates, G * H, 1, RowMajor<T>{as<T>(w.weight_ih), I, I},
             as<T>(call_.dx), I);
    multiply(team_, Sum::chain, B, early * H, room_.dgates_state, G * H, 1, RowMajor<T>{as<T>(w.weight_hh), H, H},
             room_.through, H);
    sum_weights();
    team_.barrier();
    each_vector([&](std::size_t row, std::size_t unit) {
      const std::size_t at = row * H + unit, lanes = H - unit;
      store_some(dh + at, load_some<T>(dh + at, lanes) + load_some<T>(room_.through + at, lanes), lanes);
    });
  }

 private:
  void back_through_gates(std::size_t row, std::size_t unit) const {
    V a[Cell::saved], s[Cell::states], next[Cell::states], ds[Cell::states], w[Cell::peepholes + 1], da[G], da_state[G];
    const std::size_t at = row * H + unit, lanes = H - unit;
    load_saved<Cell, Cell::saved>(call_.saved, row, H, unit, a);
    load_peepholes<Cell>(call_.weights, H, unit, w);
    for (int i = 0; i < Cell::states; ++i) {
      s[i] = load_some<T>(as<T>(call_.state[i]) + row * call_.ld_state[i] + unit, lanes);
      next[i] = load_some<T>(as<T>(call_.out[i]) + at, lanes);
      ds[i] = load_some<T>(as<T>(call_.dout[i]) + at, lanes);
    }
    Cell::backward(a, s, next, ds, w, da, da_state);
    for (std::size_t i = 0; i < G; ++i) {
      store_some(room_.dgates + row * G * H + i * H + unit, da[i], lanes);
      if constexpr (Cell::separate_state_gradients)
        store_some(room_.dgates_state + row * G * H + i * H + unit, da_state[i], lanes);
    }
    for (int i = 0; i < Cell::states; ++i) store_some(as<T>(call_.dstate[i]) + at, ds[i], lanes);
    if constexpr (Cell::peepholes > 0)
      for (int i = 0; i < Cell::peepholes; ++i)
        store_some(room_.dweight_ch + i * B * H + at,
                   da[Cell::peephole_gate[i]] * (Cell::peephole_sees_next[i] ? next : s)[1], lanes);
  }

  // d(r·h), and what of it comes to r and h.
  void back_through_reset() const {
    multiply(team_, Sum::chain, B, (G - early) * H, room_.dgates + early * H, G * H, 1,
             RowMajor<T>{as<T>(call_.weights.weight_hh) + early * H * H, H, H}, room_.dreset_h, H);
    team_.barrier();
    each_vector([&](std::size_t row, std::size_t unit) {
      const std::size_t at = row * H + unit, lanes = H - unit;
      const V r = load_some<T>(as<T>(call_.saved) + row * Cell::saved * H + unit, lanes);
      const V state = load_some<T>(h + row * ld_h + unit, lanes);
      V dr, direct = load_some<T>(dh + at, lanes);
      Cell::reset_backward(r, state, load_some<T>(room_.dreset_h + at, lanes), dr, direct);
      store_some(room_.dgates + row * G * H + unit, dr, lanes);
      store_some(dh + at, direct, lanes);
      store_some(room_.reset_h + at, r * state, lanes);
    });
    team_.barrier();
  }

  void sum_weights() const {
    sum_over_batch(room_.dgates, G * H, G * H, as<T>(call_.x), call_.ld_x, I, call_.dweight_ih);
    sum_over_batch(room_.dgates_state, G * H, early * H, h, ld_h, H, call_.dweight_hh);
    if constexpr (has_late)
      sum_over_batch(room_.dgates + early * H, G * H, (G - early) * H, room_.reset_h, H, H, call_.dweight_hh,
                     early * H * H);
    const T one = 1;
    sum_over_batch(&one, 0, 1, room_.dgates, G * H, G * H, call_.dbias_ih);
    sum_over_batch(&one, 0, 1, room_.dgates_state, G * H, G * H, call_.dbias_hh);
    for (int i = 0; i < Cell::peepholes; ++i)
      sum_over_batch(&one, 0, 1, room_.dweight_ch + i * B * H, H, H, call_.dweight_ch, i * H);
  }
  // Sums over the batch: M columns of gate gradients with N columns of what those gates' weights multiplied.
  void sum_over_batch(const T* d, std::size_t ld_d, std::size_t M, const T* y, std::size_t ld_y, std::size_t columns,
                      void* to, std::size_t offset = 0) const {
    multiply(team_, Sum::blocks, M, B, d, 1, ld_d, RowMajor<T>{y, ld_y, columns}, as<T>(to) + offset, columns);
  }

  // f(row, unit) for this thread's share of the rows' vectors.
  template <class F>
  FN void each_vector(F f) const {
    const std::size_t vectors = (H + N - 1) / N;
    const Share share(B * vectors, 1, team_.thread, team_.threads);
    for (std::size_t at = share.begin; at < share.end; ++at) f(at / vectors, at % vectors * N);
  }

  const CellBackward& call_;
  const StepBackRoom<Cell>& room_;
  const Team& team_;
  const std::size_t B = call_.B, I = call_.I, H = call_.H, ld_h = call_.ld_state[0];
  const T* const h = as<T>(call_.state[0]);
  T* const dh = as<T>(call_.dstate[0]);
};

template <class Cell>
void backward(const CellBackward& call) {
  const StepBackRoom<Cell> room(call);
  const double work = 2 * double(call.B) * double(call.H) * double(Cell::gates) * double(call.I + call.H);
  parallel(threads_for(work), [&](const Team& team) { StepBackThread<Cell>(call, room, team).run(); });
}

}  // namespace fusedstep::ISA
