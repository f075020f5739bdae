// Packing for products (gemm.h): rows in k-blocks, and matrices in torch's layout, whose rows become a panel's columns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/simd.h"

namespace fusedstep::ISA {

// The square of vectors in `v`, transposed in place, exchanging blocks of 1, 2, 4, … lanes (Eklundh 1972).
template <int block, class T, int... lane>
FN void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, lane...>) {
  constexpr int N = Vec<T>::size;
  const auto low = __builtin_shufflevector(a.raw, b.raw, (lane & block ? N + lane - block : lane)...);
  const auto high = __builtin_shufflevector(a.raw, b.raw, (lane & block ? N + lane : lane + block)...);
  a = low;
  b = high;
}
template <int block = 1, class T>
FN void transpose(Vec<T>* v) {
  constexpr int N = Vec<T>::size;
  if constexpr (block < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
      if (!(i & block)) exchange<block>(v[i], v[i + block], std::make_integer_sequence<int, N>{});
    transpose<block * 2>(v);
  }
}

// Rows of K elements, row i at row(i), in k-blocks of consecutive rows; zeros where row(i) is null.
template <class T, class Row>
void pack_each_row(std::size_t rows, std::size_t K, T* to, Row row) {
  for (std::size_t k = 0; k < K; k += kBlock<T>) {
    const std::size_t ks = std::min(kBlock<T>, K - k);
    for (std::size_t i = 0; i < rows; ++i, to += ks) {
      if (const T* const from = row(i))
        std::copy_n(from + k, ks, to);
      else
        std::fill_n(to, ks, T(0));
    }
  }
}

// Rows of K elements, (row, k) at a[row·row_stride + k·k_stride], in k-blocks of consecutive rows: in `room`, or where
// they are if they lie so already.
template <class T>
const T* pack_rows(const T* a, std::size_t row_stride, std::size_t k_stride, std::size_t rows, std::size_t K, T* room) {
  if (k_stride == 1) {
    if (rows == 1) return a;
    pack_each_row(rows, K, room, [&](std::size_t row) { return a + row * row_stride; });
    return room;
  }
  constexpr std::size_t N = Vec<T>::size;
  T* to = room;
  for (std::size_t k = 0; k < K; k += kBlock<T>) {
    const std::size_t ks = std::min(kBlock<T>, K - k);
    const T* const from = a + k * k_stride;
    // Squares of vectors where rows lie side by side; one by one what is left.
    const std::size_t whole_rows = row_stride == 1 ? rows / N * N : 0, whole_ks = ks / N * N;
    for (std::size_t i = 0; i < whole_ks; i += N)
      for (std::size_t row = 0; row < whole_rows; row += N) {
        Vec<T> square[N];
        unroll<N>([&](auto j) __attribute__((always_inline)) { square[j] = load<T>(from + (i + j) * k_stride + row); });
        transpose(square);
        unroll<N>([&](auto j) __attribute__((always_inline)) { store(to + (row + j) * ks + i, square[j]); });
      }
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t i = row < whole_rows ? whole_ks : 0; i < ks; ++i)
        to[row * ks + i] = from[i * k_stride + row * row_stride];
    to += rows * ks;
  }
  return room;
}

// square[i][lane] = rows[lane][k + i] for i < ks, of `units` rows that are ld apart; units past them are 0.
template <class T>
FN void load_square(const T* rows, std::size_t ld, std::size_t units, std::size_t k, std::size_t ks, Vec<T>* square) {
  constexpr int N = Vec<T>::size;
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    if (std::size_t(i) >= units)
      square[i] = Vec<T>(T(0));
    else
      square[i] = ks == N ? load<T>(rows + i * ld + k) : load_n<T>(rows + i * ld + k, int(ks));
  }
  transpose(square);
}

// panel[k][c][lane] = w[(gate c)·H + unit + lane][k] for a weight matrix (…·H, ld) in torch's layout; units past H are
// 0.
template <class Gates, class T>
void pack_transposed(const T* w, std::size_t H, std::size_t ld, std::size_t unit, std::size_t K, T* panel) {
  constexpr std::size_t N = Vec<T>::size, C = Gates::count;
  for (std::size_t c = 0; c < C; ++c) {
    const T* const rows = w + ((Gates::first + c) * H + unit) * ld;
    T* const to = panel + c * N;
    for (std::size_t k = 0; k < K; k += N) {
      const std::size_t ks = std::min(N, K - k);
      Vec<T> square[N];
      load_square(rows, ld, H - unit, k, ks, square);
      if (ks == N) {
#pragma GCC unroll 16
        for (std::size_t i = 0; i < N; ++i) store(to + (k + i) * C * N, square[i]);
      } else {
        for (std::size_t i = 0; i < ks; ++i) store(to + (k + i) * C * N, square[i]);
      }
    }
  }
}

// partial += a·W for one row and the panel of units from `unit` on of such a matrix: its squares are used as they are
// transposed.
template <class Gates, class T>
void accumulate_row(T* partial, const T* a, const T* w, std::size_t H, std::size_t ld, std::size_t unit) {
  constexpr std::size_t N = Vec<T>::size;
  constexpr int C = Gates::count;
  Vec<T> sum[C];
  unroll<C>([&](auto c) __attribute__((always_inline)) { sum[c] = load<T>(partial + Gates::accumulators[c] * N); });
  for (std::size_t k = 0; k < ld; k += N) {
    const std::size_t ks = std::min(N, ld - k);
    unroll<C>([&](auto c) __attribute__((always_inline)) {
      const T* const rows = w + ((Gates::first + c) * H + unit) * ld;
      Vec<T> square[N];
      load_square(rows, ld, H - unit, k, ks, square);
      if (ks == N) {
#pragma GCC unroll 16
        for (std::size_t i = 0; i < N; ++i) sum[c] = fma(Vec<T>(a[k + i]), square[i], sum[c]);
      } else {
        for (std::size_t i = 0; i < ks; ++i) sum[c] = fma(Vec<T>(a[k + i]), square[i], sum[c]);
      }
    });
  }
  unroll<C>([&](auto c) __attribute__((always_inline)) { store(partial + Gates::accumulators[c] * N, sum[c]); });
}

// A panel of a weight matrix (…·H, ld) that is packed on the way, a k-block at a time, each used at once.
template <class Gates, class T>
struct PackingPanel {
  static constexpr bool packed = false;
  static constexpr std::size_t stride = 0, width = Gates::count * Vec<T>::size, block = kPackBlock;
  const T* w;
  std::size_t H, ld, unit;
  T* room;
  const T* operator()(std::size_t k, std::size_t ks) const {
    pack_transposed<Gates>(w + k, H, ld, unit, ks, room);
    return room;
  }
};

}  // namespace fusedstep::ISA
