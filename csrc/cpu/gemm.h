// Matrix products over packed panels, each output one ascending chain of fma from its initial value.
//
// A panel holds, for every k, `Gates::count` vectors side by side: the gates of the same hidden units, or plain
// columns. Rows are packed too, kBlock values of k at a time, so that a block of them lies in consecutive cache lines.
// The accumulators of a block (many rows × one panel, or one row × many panels) wait in `partial` from one k-block to
// the next, and neither the tile, the k-block nor the thread count shows in the bits.
//   partial: (rows, panels, A, lanes)      panel: (K, count, lanes)      panels lie `stride` apart
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "core/table.h"
#include "cpu/simd.h"
#include "cpu/threads.h"
#include "rnn/gates.h"

namespace fusedstep::ISA {

// Rows of a register tile with C columns: the accumulators, the fewer of its rows and columns, and one of the other
// have a register each. 6 × 4, or 3 × 4 with 16 registers.
template <int C, int R = 1>
constexpr int tile_rows() {
  constexpr int next = R + 1;
  if constexpr (next * C <= kRegisters * 3 / 4)
    return tile_rows<C, next>();
  else
    return R;
}
template <int C>
inline constexpr int kTileRows = tile_rows<C>();
// Panels that one row passes at once: at least 8 independent chains, as many as two units of four cycles' latency need.
template <int C>
inline constexpr int kTilePanels = C > 0 ? (8 + C - 1) / C : 0;
inline constexpr std::size_t kRowBlock = 96;  // rows that share a pass over a panel: it stays in L2
// k that share a pass, 2 KiB of a row: a tile's rows stay in L1, and the panel comes from L2, a third as fast as it
// could. Rows 4 KiB apart would fall into the same cache sets; shorter blocks visit the accumulators more often.
template <class T>
inline constexpr std::size_t kBlock = 2048 / sizeof(T);
// k that are packed on the way and used at once: 16 KiB of a panel stay in L1.
inline constexpr std::size_t kPackBlock = 16384 / (4 * kVectorBytes);

// Where, in `partial`, a product's accumulators lie. Known at run time: cells share the tiles.
template <int C>
struct Places {
  std::size_t panel, of[C];  // how far apart those of two panels are; where each one is among a panel's

  template <class Gates>
  static constexpr Places among(std::size_t accumulators, std::size_t lanes) {
    Places places{accumulators * lanes, {}};
    for (int c = 0; c < C; ++c) places.of[c] = std::size_t(Gates::accumulators[c]) * lanes;
    return places;
  }
};

// How products reach what is there: each output goes on with its chain; or a block of k is a chain of its own, whose
// sum is added.
enum class Sum { chain, blocks };

// partial[row..row+R, first..first+P) += a·panel for K > 0 values of k.
template <int R, int P, int C, class T, class S>
FN void tile(Sum kind, T* partial, std::size_t panels, const Places<C>& places, const T* a, std::size_t row_stride,
             const S* w, std::size_t stride, std::size_t K) {
  using V = Vec<T>;
  constexpr int N = V::size;
  V sum[R][P][C];
  const auto each = [&](auto f) __attribute__((always_inline)) {  // of the accumulators in registers and in memory
    unroll<R>([&](auto r) __attribute__((always_inline)) {
      unroll<P>([&](auto p) __attribute__((always_inline)) {
        unroll<C>([&](auto c) __attribute__((always_inline)) {
          f(sum[r][p][c], partial + (r * panels + p) * places.panel + places.of[c]);
        });
      });
    });
  };
  if (kind == Sum::chain)
    each([](V& s, T* at) __attribute__((always_inline)) { s = load<T>(at); });
  else
    each([](V& s, T*) __attribute__((always_inline)) { s = V(T(0)); });
  if (K == 0) __builtin_unreachable();
  if constexpr (std::is_same_v<S, BFloat16>) {
    const auto step = [&](std::size_t k, auto last) __attribute__((always_inline)) {
      V x[R], next_x[R];
      unroll<R>([&](auto r) __attribute__((always_inline)) {
        x[r] = V(a[k + r * row_stride]);
        if constexpr (!last) next_x[r] = V(a[k + 1 + r * row_stride]);
      });
      unroll<P>([&](auto p) __attribute__((always_inline)) {
        unroll<C>([&](auto c) __attribute__((always_inline)) {
          V column, next;
          load_pair(w + p * stride + c * 2 * N, column, next);
          unroll<R>([&](auto r) __attribute__((always_inline)) {
            sum[r][p][c] = fma(x[r], column, sum[r][p][c]);
            if constexpr (!last) sum[r][p][c] = fma(next_x[r], next, sum[r][p][c]);
          });
        });
      });
      w += 2 * C * N;
    };
    std::size_t k = 0;
    for (; k + 1 < K; k += 2) step(k, std::false_type{});
    if (k < K) step(k, std::true_type{});
  } else {
    // Few instructions a product matter where another hyperthread takes its share of the decoder: the loop is unrolled,
    // and of rows and columns the fewer stay in registers.
#pragma GCC unroll 4
    for (std::size_t k = 0; k < K; ++k, w += C * N) {
      const auto x = [&](auto r) __attribute__((always_inline)) { return V(a[k + r * row_stride]); };
      const auto column = [&](auto p, auto c)
                              __attribute__((always_inline)) { return load<T>(w + p * stride + c * N); };
      if constexpr (R <= P * C) {
        V rows[R];
        unroll<R>([&](auto r) __attribute__((always_inline)) { rows[r] = x(r); });
        unroll<P>([&](auto p) __attribute__((always_inline)) {
          unroll<C>([&](auto c) __attribute__((always_inline)) {
            const V y = column(p, c);
            unroll<R>([&](auto r) __attribute__((always_inline)) { sum[r][p][c] = fma(rows[r], y, sum[r][p][c]); });
          });
        });
      } else {
        static_assert(P == 1);
        V columns[C];
        unroll<C>([&](auto c)
                      __attribute__((always_inline)) { columns[c] = column(std::integral_constant<int, 0>{}, c); });
        unroll<R>([&](auto r) __attribute__((always_inline)) {
          const V y = x(r);
          unroll<C>([&](auto c) __attribute__((always_inline)) { sum[r][0][c] = fma(y, columns[c], sum[r][0][c]); });
        });
      }
    }
  }
  if (kind == Sum::blocks) each([](V& s, T* at) __attribute__((always_inline)) { s = load<T>(at) + s; });
  each([](const V& s, T* at) __attribute__((always_inline)) { store(at, s); });
}

// The tile of `rows` × `tile_panels`, at most R × P; one of the two is 1.
template <int R, int P, int C, class T, class S>
void tile_of(Sum kind, std::size_t rows, std::size_t tile_panels, T* partial, std::size_t panels,
             const Places<C>& places, const T* a, std::size_t row_stride, const S* w, std::size_t stride,
             std::size_t K) {
  if (rows == R && tile_panels == P) return tile<R, P>(kind, partial, panels, places, a, row_stride, w, stride, K);
  if constexpr (R > 1)
    tile_of<R - 1, P>(kind, rows, tile_panels, partial, panels, places, a, row_stride, w, stride, K);
  else if constexpr (P > 1)
    tile_of<R, P - 1>(kind, rows, tile_panels, partial, panels, places, a, row_stride, w, stride, K);
}

// partial += a·panel for `rows` ≤ kRowBlock rows and one panel, or for one row and any number of panels. `a` holds
// `packed_rows` rows as pack_rows lays them out, these being the first; `source` gives panels as PackedPanels does.
template <int A, class Gates, class T, class Source>
void accumulate(std::size_t rows, std::size_t panels, T* partial, const T* a, std::size_t K, const Source& source,
                std::size_t packed_rows, Sum kind = Sum::chain) {
  constexpr std::size_t R = kTileRows<Gates::count>, P = kTilePanels<Gates::count>, N = Vec<T>::size;
  static_assert(kBlock<T> % Source::block == 0 && Source::block % kSumBlock == 0 && kSumPass % kBlock<T> == 0);
  const auto places = Places<Gates::count>::template among<Gates>(A, N);
  const bool alone = packed_rows == 1;  // its blocks lie side by side
  const std::size_t row_block = alone && Source::packed ? std::max<std::size_t>(K, 1) : kBlock<T>,
                    block = alone && Source::packed ? row_block : Source::block, tiles = (rows + R - 1) / R;
  for (std::size_t k = 0; k < K; k += block) {
    const std::size_t from = k / row_block * row_block, row_ks = std::min(row_block, K - from),
                      ks = std::min(block, K - k), chain = kind == Sum::chain ? ks : kSumBlock;
    const T* const rows_of_a = a + packed_rows * from + (k - from);
    const auto* const panel = source(k, ks);
    if (alone)
      for (std::size_t first = 0; first < panels; first += P)
        for (std::size_t i = 0; i < ks; i += chain)
          tile_of<1, P>(kind, 1, std::min(P, panels - first), partial + first * A * N, panels, places, rows_of_a + i, 0,
                        panel + first * source.stride + i * Source::width, source.stride, std::min(chain, ks - i));
    else
      // Tiles of nearly equal size: none with too few chains in flight.
      for (std::size_t t = 0, row = 0; t < tiles; ++t) {
        const std::size_t some = rows / tiles + (t < rows % tiles);
        for (std::size_t i = 0; i < ks; i += chain)
          tile_of<R, 1>(kind, some, 1, partial + row * A * N, 1, places, rows_of_a + row * row_ks + i, row_ks,
                        panel + i * Source::width, 0, std::min(chain, ks - i));
        row += some;
      }
  }
}

// Panels that lie packed, `stride` apart; in bfloat16 two values of k alternate, lane by lane: source(k, ks) is the
// first one from k on.
template <class Gates, class T, class S = T>
struct PackedPanels {
  static constexpr bool packed = true;
  const S* panel;
  std::size_t stride;
  static constexpr std::size_t width = Gates::count * Vec<T>::size, block = kBlock<T>;
  const S* operator()(std::size_t k, std::size_t) const { return panel + k * width; }
};

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

// n elements of a vector's width at most, the rest zero; and back.
template <class T>
FN Vec<T> load_some(const T* p, std::size_t n) {
  return n >= std::size_t(Vec<T>::size) ? load<T>(p) : load_n<T>(p, int(n));
}
template <class T>
FN void store_some(T* p, Vec<T> a, std::size_t n) {
  n >= std::size_t(Vec<T>::size) ? store(p, a) : store_n(p, a, int(n));
}

// f(first, count) for groups of the panels begin … end-1; from the last one on where `backwards`. Passes over the same
// weights that turn each time find in the caches what the last one read at its end.
template <class F>
FN void each_group(std::size_t begin, std::size_t end, std::size_t group, bool backwards, F f) {
  const std::size_t groups = (end - begin + group - 1) / group;
  for (std::size_t i = 0; i < groups; ++i) {
    const std::size_t first = begin + (backwards ? groups - 1 - i : i) * group;
    f(first, std::min(group, end - first));
  }
}

// This thread's share of `rows` × `panels`: f(row, rows, first panel, last panel) for blocks of up to kRowBlock rows.
template <class F>
void split_blocks(const Team& team, std::size_t rows, std::size_t panels, F f) {
  constexpr std::size_t kPerThread = 4;  // units of work, so that their number need not be a multiple of the threads'
  if (rows == 0 || panels == 0) return;
  std::size_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  if (team.threads > 1)
    blocks = std::clamp(kPerThread * std::size_t(team.threads) / panels, blocks, std::max(blocks, rows / 12));
  const Share share(blocks * panels, 1, team.thread, team.threads);
  for (std::size_t at = share.begin, next; at < share.end; at = next) {
    const std::size_t block = at / panels;
    next = std::min(share.end, (block + 1) * panels);
    const std::size_t row = rows * block / blocks;
    f(row, rows * (block + 1) / blocks - row, at - block * panels, next - block * panels);
  }
}

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
