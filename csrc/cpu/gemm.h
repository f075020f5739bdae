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

}  // namespace fusedstep::ISA
