// Whole products C = A·B of plain matrices (gemm.h), whose right-hand sides are packed by columns.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/pack.h"
#include "cpu/simd.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

// The right-hand side (K, N) of a product, by panels of four vectors of its columns.
using Columns = Gates<0, 0, 1, 2, 3>;
template <class T>
inline constexpr std::size_t kColumns = Columns::count * Vec<T>::size;
template <class T>
constexpr std::size_t column_panels(std::size_t N) {
  return (N + kColumns<T> - 1) / kColumns<T>;
}

template <class T>
constexpr std::size_t columns_size(std::size_t K, std::size_t N) {
  return column_panels<T>(N) * kColumns<T> * K;
}

// Columns of a row-major matrix as a panel, copied as PackingPanel packs.
template <class T>
struct ColumnPanel {
  static constexpr bool packed = false;
  static constexpr std::size_t stride = 0, L = Vec<T>::size, width = kColumns<T>, block = kPackBlock;
  const T* b;
  std::size_t ld, columns;  // ≤ width
  T* room;
  const T* operator()(std::size_t k, std::size_t ks) const {
    for (std::size_t i = 0; i < ks; ++i)
      for (std::size_t j = 0; j < width; j += L)
        store(room + i * width + j, j < columns ? load_some<T>(b + (k + i) * ld + j, columns - j) : Vec<T>(T(0)));
    return room;
  }
};

// A row-major one, its panels copied on the way.
template <class T>
struct RowMajor {
  const T* b;
  std::size_t ld, N;
  static constexpr std::size_t room = kPackBlock * kColumns<T>;
  ColumnPanel<T> panel(std::size_t p, std::size_t k, T* to) const {
    return {b + k * ld + p * kColumns<T>, ld, std::min(kColumns<T>, N - p * kColumns<T>), to};
  }
};

// One whose panels lie packed, (K, 4, lanes) each.
template <class T>
struct PackedColumns {
  const T* panels;
  std::size_t K, N;
  static constexpr std::size_t room = 0;
  PackedPanels<Columns, T> panel(std::size_t p, std::size_t k, T*) const {
    return {panels + (p * K + k) * kColumns<T>, 0};
  }
};

// This thread's share of packing a row-major matrix.
template <class T>
void pack_columns(const Team& team, const T* b, std::size_t ld, std::size_t K, std::size_t N, T* to) {
  const RowMajor<T> from{b, ld, N};
  const Share own(column_panels<T>(N), 1, team.thread, team.threads);
  for (std::size_t p = own.begin; p < own.end; ++p) from.panel(p, 0, to + p * K * kColumns<T>)(0, K);
}

// Where a product with one right-hand side goes: C (M, N), rows ldc apart.
template <class T, class B>
struct Target {
  B b;
  T* c;
  std::size_t ldc;
};

// C = A·B for right-hand sides that share A (M, K), which has any strides and is packed once; or, in blocks, what C
// holds plus it where `add`.
template <class T, class B, std::size_t n>
void multiply(const Team& team, Sum kind, std::size_t M, std::size_t K, const T* a, std::size_t row_stride,
              std::size_t k_stride, const Target<T, B> (&targets)[n], bool add = false) {
  using V = Vec<T>;
  constexpr std::size_t L = V::size, width = kColumns<T>;
  const std::size_t room = std::min(K, kSumPass);
  T* const partial = static_cast<T*>(scratch((kRowBlock * (width + room) + B::room) * sizeof(T)));
  T* const panel_room = partial + kRowBlock * width;
  T* const rows_room = panel_room + B::room;
  std::size_t panels = 0;
  for (const auto& target : targets) panels += column_panels<T>(target.b.N);
  split_blocks(team, M, panels, [&](std::size_t row, std::size_t rows, std::size_t first, std::size_t last) {
    const std::size_t passes = std::max<std::size_t>(1, (K + kSumPass - 1) / kSumPass);  // C is written also of K = 0
    for (std::size_t i = 0; i < passes; ++i) {
      const std::size_t k = (kind == Sum::chain ? i : passes - 1 - i) * kSumPass, ks = std::min(kSumPass, K - k);
      const bool resumed = kind == Sum::chain && i > 0, added = kind == Sum::blocks && (i > 0 || add);
      const T* const rows_of_a =
          pack_rows(a + row * row_stride + k * k_stride, row_stride, k_stride, rows, ks, rows_room);
      std::size_t panel = 0;  // of all
      for (const auto& target : targets)
        for (std::size_t column = 0; column < target.b.N; column += width, ++panel) {
          if (panel < first || panel >= last) continue;
          const std::size_t columns = std::min(width, target.b.N - column);
          const auto each_vector = [&](auto f) {
            for (std::size_t r = 0; r < rows; ++r)
              for (std::size_t j = 0; j < columns; j += L)
                f(partial + r * width + j, target.c + (row + r) * target.ldc + column + j, columns - j);
          };
          std::fill_n(partial, rows * width, T(0));
          if (resumed) each_vector([&](T* sum, T* out, std::size_t some) { store(sum, load_some<T>(out, some)); });
          accumulate<4, Columns>(rows, 1, partial, rows_of_a, ks, target.b.panel(column / width, k, panel_room), rows,
                                 kind);
          each_vector([&](T* sum, T* out, std::size_t some) {
            store_some(out, added ? load_some<T>(out, some) + load<T>(sum) : load<T>(sum), some);
          });
        }
    }
  });
}
template <class T, class B>
void multiply(const Team& team, Sum kind, std::size_t M, std::size_t K, const T* a, std::size_t row_stride,
              std::size_t k_stride, const B& b, T* c, std::size_t ldc, bool add = false) {
  multiply(team, kind, M, K, a, row_stride, k_stride, {Target<T, B>{b, c, ldc}}, add);
}

}  // namespace fusedstep::ISA
