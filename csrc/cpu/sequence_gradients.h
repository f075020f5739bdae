// Sequences backward: what needs no order of steps, as large products over all pairs: dx, and the weights' gradients,
// which sum over time and batch.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/norm_back.h"
#include "cpu/pairs.h"
#include "cpu/product.h"
#include "cpu/rnn.h"

namespace fusedstep::ISA {

// f(first, last) for the passes of [0, n), from the last one on.
template <class F>
void each_pass(std::size_t n, F f) {
  for (std::size_t pass = (n + kSumPass - 1) / kSumPass; pass-- > 0;)
    f(pass * kSumPass, std::min(n, (pass + 1) * kSumPass));
}

// sums[column] += each of the n rows of a matrix, ld apart, pass by pass, for this thread's columns; f(column, its
// sum).
template <class T, class F>
void sum_rows(const Team& team, const T* a, std::size_t ld, std::size_t n, std::size_t columns, double* sums, F f) {
  using D = Vec<double>;
  constexpr std::size_t side = 8, width = side * D::size;
  const Share own((columns + width - 1) / width, 1, team.thread, team.threads);
  for (std::size_t first = own.begin * width; first < std::min(columns, own.end * width); first += width) {
    const std::size_t some = std::min(width, columns - first);
    if (some == width) {
      D sum[side];
      unroll<side>([&](auto i) __attribute__((always_inline)) { sum[i] = load<double>(sums + first + i * D::size); });
      each_pass(n, [&](std::size_t row, std::size_t last) __attribute__((always_inline)) {
        for (; row < last; ++row)
          unroll<side>([&](auto i) __attribute__((always_inline)) {
            sum[i] = sum[i] + widen<D>(a + row * ld + first + i * D::size);
          });
      });
      unroll<side>([&](auto i) __attribute__((always_inline)) { store(sums + first + i * D::size, sum[i]); });
    } else {
      each_pass(n, [&](std::size_t row, std::size_t last) {
        for (; row < last; ++row)
          for (std::size_t i = 0; i < some; ++i) sums[first + i] += double(a[row * ld + first + i]);
      });
    }
    for (std::size_t i = 0; i < some; ++i) f(first + i, sums[first + i]);
  }
}

// One thread that sums a sweep's weight gradients over pairs begin … end-1, or goes on with what later ones gave.
template <class Cell>
class GradientsThread {
  using T = typename Cell::Scalar;
  static constexpr std::size_t N = Vec<T>::size, S = Cell::saved, G = Cell::gates;
  static constexpr bool has_late = Cell::LateGates::count > 0;

 public:
  // The right-hand sides of the products, packed: W_ih, x, h before each step, r·h or a projection's m.
  struct Packed {
    T *w, *x, *h, *other;

    static Packed for_pairs(const Sweep& sweep, std::size_t n) {
      const std::size_t w = sweep.dx ? columns_size<T>(G * sweep.H, sweep.I) : 0, x = columns_size<T>(n, sweep.I),
                        h = columns_size<T>(n, sweep.P),
                        other = has_late || projected(sweep) ? columns_size<T>(n, sweep.H) : 0;
      T* const at = as<T>(scratch((w + x + h + other) * sizeof(T), 1));
      return {at, at + w, at + w + x, at + w + x + h};
    }
  };

  GradientsThread(const Sweep& sweep, const Packed& packed, const Team& team, std::size_t begin, std::size_t end,
                  bool add)
      : sweep_(sweep),
        packed_(packed),
        team_(team),
        begin_(begin),
        n_(end - begin),
        add_(add),
        first_(end == sweep.start[sweep.T]),
        last_(begin == 0) {}

  void run() {
    pack();
    team_.barrier();
    if (sweep_.dx)
      multiply(team_, Sum::chain, n_, G * H, saved() + input_slot<Cell>(0) * H, ld, 1,
               PackedColumns<T>{packed_.w, G * H, I}, as<T>(sweep_.dx) + begin_ * sweep_.ld_dx, sweep_.ld_dx);
    sum_weights();
    if (sweep_.dbias_ih) sum_biases();
    if constexpr (Cell::layer_norm)
      if (last_ && team_.thread == 0) give_norms();
    if constexpr (Cell::peepholes > 0) sum_peepholes();
  }

 private:
  static bool projected(const Sweep& sweep) { return Cell::can_project && sweep.P < sweep.H; }

  void pack() const {
    if (sweep_.dx) pack_columns(team_, as<T>(sweep_.weights.weight_ih), I, G * H, I, packed_.w);
    pack_columns(team_, as<T>(sweep_.compact_x) + begin_ * sweep_.ld_x, sweep_.ld_x, n_, I, packed_.x);
    pack_columns(team_, as<T>(sweep_.previous_h) + begin_ * P, P, n_, P, packed_.h);
    if constexpr (has_late) pack_columns(team_, as<T>(sweep_.reset_h) + begin_ * H, H, n_, H, packed_.other);
    if (projected(sweep_)) pack_columns(team_, as<T>(sweep_.m) + begin_ * H, H, n_, H, packed_.other);
  }

  // In runs of gates whose gradients W_ih and W_hh both see, or not, and which see one h: their rows are packed once.
  void sum_weights() const {
    using Product = Target<T, PackedColumns<T>>;
    const bool more = add_ || !first_;  // what is there are sums already
    const auto is_late = [](std::size_t gate) { return has_late && gate >= std::size_t(Cell::LateGates::first); };
    const auto shared = [](std::size_t gate) { return input_slot<Cell>(gate) == state_slot<Cell>(gate); };
    for (std::size_t gate = 0, next; gate < G; gate = next) {
      next = gate + 1;
      while (next < G && is_late(next) == is_late(gate) && shared(next) == shared(gate)) ++next;
      const std::size_t rows = (next - gate) * H;
      const T* const by_input = saved() + input_slot<Cell>(gate) * H;
      const T* const by_state = saved() + state_slot<Cell>(gate) * H;
      const Product of_x{{packed_.x, n_, I}, as<T>(sweep_.dweight_ih) + gate * H * I, I},
          of_h{{is_late(gate) ? packed_.other : packed_.h, n_, P}, as<T>(sweep_.dweight_hh) + gate * H * P, P};
      if (shared(gate)) {
        multiply(team_, Sum::blocks, rows, n_, by_input, 1, ld, {of_x, of_h}, more);
      } else {
        multiply(team_, Sum::blocks, rows, n_, by_input, 1, ld, {of_x}, more);
        multiply(team_, Sum::blocks, rows, n_, by_state, 1, ld, {of_h}, more);
      }
    }
    if (projected(sweep_))
      multiply(team_, Sum::blocks, P, n_, as<T>(sweep_.dh) + begin_ * P, 1, P, PackedColumns<T>{packed_.other, n_, H},
               as<T>(sweep_.dweight_hr), H, more);
  }

  // The sums of the gates' gradients go on in `sums`; the last pairs give them.
  void sum_biases() const {
    sum_rows(team_, saved(), ld, n_, std::size_t(Cell::values) * H, sweep_.sums, [&](std::size_t column, double sum) {
      if (!last_) return;
      const std::size_t slot = column / H, unit = column % H;
      for (std::size_t gate = 0; gate < G; ++gate) {
        if (gate == slot) give(sweep_.dbias_ih, gate * H + unit, sum);
        if (std::size_t(Cell::state_slot[gate]) == slot) give(sweep_.dbias_hh, gate * H + unit, sum);
      }
    });
  }

  // Gradients of what normalises, which the sweep back has summed.
  void give_norms() const {
    const double* const sums = sweep_.sums + std::size_t(Cell::values) * H;
    for (std::size_t i = 0; i < G * H; ++i) {
      give(sweep_.dgain_ih, i, sums[i]);
      give(sweep_.dgain_hh, i, sums[G * H + i]);
    }
    for (std::size_t unit = 0; unit < H; ++unit) {
      give(sweep_.dgain_c, unit, sums[2 * G * H + unit]);
      give(sweep_.dbias_c, unit, sums[2 * G * H + H + unit]);
    }
  }

  void sum_peepholes() const {
    const Share own((H + N - 1) / N, 1, team_.thread, team_.threads);
    for (std::size_t unit = own.begin * N; unit < std::min(H, own.end * N); unit += N)
      for (std::size_t j = 0; j < std::size_t(Cell::peepholes); ++j) {
        const std::size_t lanes = std::min(N, H - unit);
        double* const sums = sweep_.sums + (S + 2 + j) * H + unit;
        sum_peephole(j, unit, lanes, sums);
        for (std::size_t lane = 0; last_ && lane < lanes; ++lane)
          give(sweep_.dweight_ch, j * H + unit + lane, sums[lane]);
      }
  }
  // sums += the terms of peephole j.
  void sum_peephole(std::size_t j, std::size_t unit, std::size_t lanes, double* sums) const {
    const Pairs<T> pairs{sweep_};
    const void* const next_c = sweep_.next_c ? sweep_.next_c : sweep_.states;
    each_pass(n_, [&](std::size_t first, std::size_t last) {
      pairs.each(begin_ + first, begin_ + last, [&](std::size_t i, std::size_t step, std::size_t row) {
        const std::size_t pair = begin_ + first + i;
        const T* const c = Cell::peephole_sees_next[j] ? as<T>(next_c) + pair * H : pairs.previous_c(step, row);
        const T* const da = as<T>(sweep_.saved) + pair * ld + std::size_t(Cell::peephole_gate[j]) * H + unit;
        for (std::size_t lane = 0; c && lane < lanes; ++lane) sums[lane] += double(da[lane]) * double(c[unit + lane]);
      });
    });
  }

  void give(void* vector, std::size_t at, double sum) const {
    if (!vector) return;
    T& to = as<T>(vector)[at];
    to = T(add_ ? double(to) + sum : sum);
  }
  const T* saved() const { return as<T>(sweep_.saved) + begin_ * ld; }

  const Sweep& sweep_;
  const Packed& packed_;
  const Team& team_;
  const std::size_t begin_, n_;
  const bool add_, first_, last_;
  const std::size_t I = sweep_.I, H = sweep_.H, P = sweep_.P, ld = S * H;
};

template <class Cell>
void gradients(const Sweep& sweep, std::size_t begin, std::size_t end, bool add) {
  const std::size_t n = end - begin;
  const auto packed = GradientsThread<Cell>::Packed::for_pairs(sweep, n);
  const double work = 2 * double(n) * double(sweep.H) * double(Cell::gates) * double(sweep.I + sweep.P);
  parallel(threads_for(work),
           [&](const Team& team) { GradientsThread<Cell>(sweep, packed, team, begin, end, add).run(); });
}

}  // namespace fusedstep::ISA
