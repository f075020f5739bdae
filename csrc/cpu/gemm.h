// Matrix products over packed panels, each output one ascending chain of fma from its initial value.
//
// A panel holds, for every k, `Gates::count` vectors side by side: the gates of the same hidden units, or plain columns.
// The accumulators of a block (many rows × one panel, or one row × many panels) wait in `partial`, in L1, from one
// k-block to the next; so a panel is read once from L2 for a whole block of rows, and neither the tile, the k-block nor
// the thread count shows in the bits.
//   partial: (rows, panels, A, lanes)      panel: (K, count, lanes)      panels lie `stride` apart
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/simd.h"
#include "cpu/threads.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

// A register tile has R × C accumulators, R broadcast values and a vector of the panel: 6 × 4, or 3 × 4 with 16 registers.
template <int C>
inline constexpr int kTileRows = (kRegisters - 1) / (C + 1);
// Panels that one row passes at once: at least 8 independent chains, as many as two units of four cycles' latency need.
template <int C>
inline constexpr int kTilePanels = (8 + C - 1) / C;
inline constexpr std::size_t kRowBlock = 96;            // rows whose accumulators stay in L1 (12 KiB of 8-lane floats)
inline constexpr std::size_t kPanelBlockBytes = 16384;  // of a panel that stay in L1 while those rows pass

template <class T, class Gates>
struct Operand {
  const T* a;  // element (row, k) at a[row·row_stride + k·k_stride]
  std::ptrdiff_t row_stride, k_stride;
  const T* panel;
  std::size_t stride;
  std::size_t K;
};

// partial[row..row+R, first..first+P) += a·panel over [k0, k1).
template <int R, int P, int A, class T, class Gates>
FN void tile(T* partial, std::size_t panels, const Operand<T, Gates>& o, std::size_t row, std::size_t first,
             std::size_t k0, std::size_t k1) {
  using V = Vec<T>;
  constexpr int N = V::size, C = Gates::count;
  const auto at = [&](int r, int p, int c) __attribute__((always_inline)) {
    return partial + ((row + r) * panels + first + p) * A * N + Gates::accumulators[c] * N;
  };
  V sum[R][P][C];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p)
      for (int c = 0; c < C; ++c) sum[r][p][c] = load<T>(at(r, p, c));
  const T* a = o.a + std::ptrdiff_t(row) * o.row_stride + std::ptrdiff_t(k0) * o.k_stride;
  const T* w = o.panel + first * o.stride + k0 * C * N;
  for (std::size_t k = k0; k < k1; ++k) {
    V x[R];
    for (int r = 0; r < R; ++r) x[r] = V(a[r * o.row_stride]);
    for (int p = 0; p < P; ++p)
      for (int c = 0; c < C; ++c) {
        const V column = load<T>(w + p * o.stride + c * N);
        for (int r = 0; r < R; ++r) sum[r][p][c] = fma(x[r], column, sum[r][p][c]);
      }
    a += o.k_stride;
    w += C * N;
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p)
      for (int c = 0; c < C; ++c) store(at(r, p, c), sum[r][p][c]);
}

// The tile of `rows` × `panels`, at most R × P; one of the two is 1.
template <int R, int P, int A, class T, class Gates>
void tile_of(std::size_t rows, std::size_t tile_panels, T* partial, std::size_t panels, const Operand<T, Gates>& o,
             std::size_t row, std::size_t first, std::size_t k0, std::size_t k1) {
  if (rows == R && tile_panels == P) return tile<R, P, A>(partial, panels, o, row, first, k0, k1);
  if constexpr (R > 1)
    tile_of<R - 1, P, A>(rows, tile_panels, partial, panels, o, row, first, k0, k1);
  else if constexpr (P > 1)
    tile_of<R, P - 1, A>(rows, tile_panels, partial, panels, o, row, first, k0, k1);
}

// partial += a·panel for `rows` ≤ kRowBlock rows and one panel, or for one row and any number of panels.
template <int A, class T, class Gates>
void accumulate(std::size_t rows, std::size_t panels, T* partial, const Operand<T, Gates>& o) {
  constexpr int R = kTileRows<Gates::count>, P = kTilePanels<Gates::count>;
  if (rows == 1) {
    for (std::size_t first = 0; first < panels; first += P)
      tile_of<1, P, A>(1, std::min<std::size_t>(P, panels - first), partial, panels, o, 0, first, 0, o.K);
    return;
  }
  const std::size_t tiles = (rows + R - 1) / R;
  const std::size_t k_block = tiles == 1 ? o.K : kPanelBlockBytes / (Gates::count * kVectorBytes);
  for (std::size_t k0 = 0; k0 < o.K; k0 += k_block) {
    const std::size_t k1 = std::min(o.K, k0 + k_block);
    for (std::size_t i = 0; i < tiles; ++i) {  // tiles of nearly equal size: none is left with too few chains in flight
      const std::size_t row = rows * i / tiles, next = rows * (i + 1) / tiles;
      tile_of<R, 1, A>(next - row, 1, partial, 1, o, row, 0, k0, k1);
    }
  }
}

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

// panel[k][c][lane] = w[(gate c)·H + unit + lane][k] for a weight matrix (…·H, K) in torch's layout; units past H are 0.
template <class Gates, class T>
void pack_transposed(const T* w, std::size_t H, std::size_t K, std::size_t unit, T* panel) {
  using V = Vec<T>;
  constexpr int N = V::size, C = Gates::count;
  const std::size_t units = std::min<std::size_t>(N, H - unit);
  for (int c = 0; c < C; ++c) {
    const T* const rows = w + ((Gates::first + c) * H + unit) * K;
    T* const to = panel + c * N;
    for (std::size_t k = 0; k < K; k += N) {
      const int ks = int(std::min<std::size_t>(N, K - k));
      V square[N];
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        if (std::size_t(i) >= units)
          square[i] = V(T(0));
        else
          square[i] = ks == N ? load<T>(rows + i * K + k) : load_n<T>(rows + i * K + k, ks);
      }
      transpose(square);
      if (ks == N) {
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) store(to + (k + i) * C * N, square[i]);
      } else {
        for (int i = 0; i < ks; ++i) store(to + (k + i) * C * N, square[i]);
      }
    }
  }
}

// n elements of a vector's width at most, the rest zero; and back.
template <class T>
FN Vec<T> load_some(const T* p, std::size_t n) {
  return n >= std::size_t(Vec<T>::size) ? load<T>(p) : load_n<T>(p, int(n));
}
template <class T>
FN void store_some(T* p, Vec<T> a, std::size_t n) {
  n >= std::size_t(Vec<T>::size) ? store(p, a) : store_n(p, a, int(n));
}

// This thread's share of `panels` × `rows`, in blocks: f(panel, panels, row, rows) with one panel and up to kRowBlock
// rows, or, where there is one row, up to `group` panels.
template <class F>
void split_blocks(const Team& team, std::size_t panels, std::size_t rows, std::size_t group, F f) {
  if (rows == 1) {
    const Share share(panels, 2, team.thread, team.threads);
    for (std::size_t panel = share.begin; panel < share.end; panel += group)
      f(panel, std::min(group, share.end - panel), 0, 1);
    return;
  }
  const Share share(panels * rows, std::clamp<std::size_t>(rows, 1, 12), team.thread, team.threads);
  for (std::size_t at = share.begin, next; at < share.end; at = next) {
    const std::size_t panel = at / rows, row = at % rows;
    next = std::min({share.end, (panel + 1) * rows, at + kRowBlock});
    f(panel, 1, row, next - at);
  }
}

// C (M, N) = [C] + A·B. B is (K, N) row-major, A has any strides. The chain of each output starts from C where
// `from_c`, else from 0. Where K is longer than `block`, each block has a chain of its own and the sums are added in order.
template <class T>
void multiply(const Team& team, std::size_t M, std::size_t N, std::size_t K, const T* a, std::ptrdiff_t row_stride,
              std::ptrdiff_t k_stride, const T* b, std::size_t ldb, T* c, std::size_t ldc, bool from_c,
              std::size_t block) {
  using V = Vec<T>;
  using Columns = Gates<0, 0, 1, 2, 3>;
  constexpr std::size_t L = V::size, width = 4 * L;
  block = std::min(block, K);
  T* const partial = static_cast<T*>(scratch((kRowBlock + block) * width * sizeof(T)));
  T* const panel = partial + kRowBlock * width;
  split_blocks(team, (N + width - 1) / width, M, 1, [&](std::size_t index, std::size_t, std::size_t row, std::size_t rows) {
    const std::size_t column = index * width, columns = std::min(width, N - column);
    const auto each_vector = [&](auto f) {
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t j = 0; j < columns; j += L)
          f(partial + r * width + j, c + (row + r) * ldc + column + j, columns - j);
    };
    std::size_t k = 0;
    do {  // once even where K is 0: C is written then too
      const std::size_t ks = std::min(block, K - k);
      const bool chained = k == 0 && from_c;
      for (std::size_t i = 0; i < ks; ++i)
        for (std::size_t j = 0; j < width; j += L)
          store(panel + i * width + j, j < columns ? load_some<T>(b + (k + i) * ldb + column + j, columns - j) : V(T(0)));
      std::fill_n(partial, rows * width, T(0));
      if (chained) each_vector([&](T* sum, T* out, std::size_t n) { store(sum, load_some<T>(out, n)); });
      accumulate<4>(rows, 1, partial,
                    Operand<T, Columns>{a + std::ptrdiff_t(row) * row_stride + std::ptrdiff_t(k) * k_stride, row_stride,
                                        k_stride, panel, 0, ks});
      each_vector([&](T* sum, T* out, std::size_t n) {
        store_some(out, k == 0 ? load<T>(sum) : load_some<T>(out, n) + load<T>(sum), n);
      });
      k += block;
    } while (k < K);
  });
}

}  // namespace fusedstep::ISA
