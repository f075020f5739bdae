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

template <class Cell>
void gradients(const Sweep& sweep, std::size_t begin, std::size_t end, bool add) {
  using T = typename Cell::Scalar;
  constexpr std::size_t N = Vec<T>::size, S = Cell::saved, G = Cell::gates;
  constexpr bool has_late = Cell::LateGates::count > 0;
  const std::size_t I = sweep.I, H = sweep.H, P = sweep.P, n = end - begin, ld = S * H, GH = G * H;
  const bool projected = Cell::can_project && P < H;
  const bool more = add || end < sweep.start[sweep.T];  // what is there are sums already
  const T* const d = as<T>(sweep.saved) + begin * ld;
  const T* const dinput = d + input_slot<Cell>(0) * H;
  const Pairs<T> pairs{sweep};

  // The right-hand sides, packed: W_ih, x, h before each step, r·h or a projection's m.
  const std::size_t w_size = sweep.dx ? columns_size<T>(GH, I) : 0, x_size = columns_size<T>(n, I),
                    h_size = columns_size<T>(n, P), other_size = has_late || projected ? columns_size<T>(n, H) : 0;
  T* const w = as<T>(scratch((w_size + x_size + h_size + other_size) * sizeof(T), 1));
  T* const x = w + w_size;
  T* const h = x + x_size;
  T* const other = h + h_size;

  parallel(threads_for(2 * double(n) * double(H) * double(G) * double(I + P)), [&](const Team& team) {
    if (sweep.dx) pack_columns(team, as<T>(sweep.weights.weight_ih), I, GH, I, w);
    pack_columns(team, as<T>(sweep.compact_x) + begin * sweep.ld_x, sweep.ld_x, n, I, x);
    pack_columns(team, as<T>(sweep.previous_h) + begin * P, P, n, P, h);
    if constexpr (has_late) pack_columns(team, as<T>(sweep.reset_h) + begin * H, H, n, H, other);
    if (projected) pack_columns(team, as<T>(sweep.m) + begin * H, H, n, H, other);
    team.barrier();

    if (sweep.dx)
      multiply(team, Sum::chain, n, GH, dinput, ld, 1, PackedColumns<T>{w, GH, I},
               as<T>(sweep.dx) + begin * sweep.ld_dx, sweep.ld_dx);
    // In runs of gates whose gradients W_ih and W_hh both see, or not, and which see one h: their rows are packed once.
    using Product = Target<T, PackedColumns<T>>;
    const auto is_late = [&](std::size_t gate) { return has_late && gate >= std::size_t(Cell::LateGates::first); };
    const auto shared = [](std::size_t gate) { return input_slot<Cell>(gate) == state_slot<Cell>(gate); };
    for (std::size_t gate = 0, next; gate < G; gate = next) {
      next = gate + 1;
      while (next < G && is_late(next) == is_late(gate) && shared(next) == shared(gate)) ++next;
      const std::size_t rows = (next - gate) * H;
      const T *const by_input = d + input_slot<Cell>(gate) * H, *const by_state = d + state_slot<Cell>(gate) * H;
      const Product of_x{{x, n, I}, as<T>(sweep.dweight_ih) + gate * H * I, I},
          of_h{{is_late(gate) ? other : h, n, P}, as<T>(sweep.dweight_hh) + gate * H * P, P};
      if (shared(gate)) {
        multiply(team, Sum::blocks, rows, n, by_input, 1, ld, {of_x, of_h}, more);
      } else {
        multiply(team, Sum::blocks, rows, n, by_input, 1, ld, {of_x}, more);
        multiply(team, Sum::blocks, rows, n, by_state, 1, ld, {of_h}, more);
      }
    }
    if (projected)
      multiply(team, Sum::blocks, P, n, as<T>(sweep.dh) + begin * P, 1, P, PackedColumns<T>{other, n, H},
               as<T>(sweep.dweight_hr), H, more);
    const bool whole = begin == 0;  // else the sums go on
    const auto give = [&](void* vector, std::size_t at, double sum) {
      if (!vector) return;
      T& to = as<T>(vector)[at];
      to = T(add ? double(to) + sum : sum);
    };
    if (sweep.dbias_ih)
      sum_rows(team, d, ld, n, std::size_t(Cell::values) * H, sweep.sums, [&](std::size_t column, double sum) {
        if (!whole) return;
        const std::size_t slot = column / H, unit = column % H;
        for (std::size_t gate = 0; gate < G; ++gate) {
          if (gate == slot) give(sweep.dbias_ih, gate * H + unit, sum);
          if (std::size_t(Cell::state_slot[gate]) == slot) give(sweep.dbias_hh, gate * H + unit, sum);
        }
      });
    if constexpr (Cell::layer_norm)
      if (whole && team.thread == 0) {  // the sweep has summed them
        const double* const sums = sweep.sums + std::size_t(Cell::values) * H;
        for (std::size_t i = 0; i < GH; ++i) {
          give(sweep.dgain_ih, i, sums[i]);
          give(sweep.dgain_hh, i, sums[GH + i]);
        }
        for (std::size_t unit = 0; unit < H; ++unit) {
          give(sweep.dgain_c, unit, sums[2 * GH + unit]);
          give(sweep.dbias_c, unit, sums[2 * GH + H + unit]);
        }
      }
    if constexpr (Cell::peepholes > 0) {
      const Share own((H + N - 1) / N, 1, team.thread, team.threads);
      for (std::size_t unit = own.begin * N; unit < std::min(H, own.end * N); unit += N)
        for (std::size_t j = 0; j < std::size_t(Cell::peepholes); ++j) {
          const std::size_t lanes = std::min(N, H - unit);
          double* const sums = sweep.sums + (S + 2 + j) * H + unit;
          each_pass(n, [&](std::size_t first, std::size_t last) {
            pairs.each(begin + first, begin + last, [&](std::size_t i, std::size_t step, std::size_t row) {
              const std::size_t pair = begin + first + i;
              const T* const c = Cell::peephole_sees_next[j]
                                     ? as<T>(sweep.next_c ? sweep.next_c : sweep.states) + pair * H
                                     : pairs.previous_c(step, row);
              const T* const da = as<T>(sweep.saved) + pair * ld + std::size_t(Cell::peephole_gate[j]) * H + unit;
              for (std::size_t lane = 0; c && lane < lanes; ++lane)
                sums[lane] += double(da[lane]) * double(c[unit + lane]);
            });
          });
          for (std::size_t lane = 0; whole && lane < lanes; ++lane)
            give(sweep.dweight_ch, j * H + unit + lane, sums[lane]);
        }
    }
  });
}

}  // namespace fusedstep::ISA
