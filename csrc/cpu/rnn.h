// What the steps of cells (cell.h) and whole sequences share: how a cell's weights are packed, and what its gates'
// mathematics reads and leaves.
//
// A packed panel holds all that N hidden units need: their accumulators' initial values (biases), peepholes, and the
// columns of W_ih, W_hh and, where the cell has a second product, its columns of W_hh. Of a cell with norms the initial
// values are zeros; the gains and biases of what is normalised follow the peepholes:
//   (A + peepholes + affine, N)   (I, input gates, N)   (P, state gates, N)   (P, late gates, N)
// h is P wide: H but for a sequence with a projection, whose panels of N outputs, (H, N) each, follow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/int8.h"
#include "cpu/pack.h"

namespace fusedstep::ISA {

using Outputs = Gates<0, 0>;  // of a projection

template <class Cell>
struct Layout {
  using T = typename Cell::Scalar;
  static constexpr std::size_t N = Vec<T>::size, kGains = (Cell::accumulators + Cell::peepholes) * N;
  // Gains of the accumulators, their biases, the gain and the bias of c′.
  static constexpr std::size_t affine = Cell::layer_norm ? 2 * (Cell::accumulators + Cell::states - 1) : 0;
  static constexpr std::size_t kStart = kGains + affine * N;
  std::size_t I, H, P;
  Storage storage = Storage::same;  // of all but the initial values and peepholes

  std::size_t panels() const { return (H + N - 1) / N; }
  // In units of T.
  std::size_t room(std::size_t K, int gates) const {
    const std::size_t rows = storage == Storage::same ? K : storage == Storage::int8 ? 1 + words_for(K) : (K + 1) / 2;
    return rows * std::size_t(gates) * N;
  }
  std::size_t state() const { return kStart + room(I, Cell::InputGates::count); }
  std::size_t late() const { return state() + room(P, Cell::StateGates::count); }
  std::size_t size() const { return late() + room(P, Cell::LateGates::count); }
  std::size_t projection() const { return panels() * size(); }
  std::size_t projection_panels() const { return P < H ? (P + N - 1) / N : 0; }
  std::size_t projection_size() const { return room(H, Outputs::count); }
  std::size_t total() const { return projection() + projection_panels() * projection_size(); }
};

// Panels that one row passes at once: as many as the products' tiles have.
template <class Cell>
inline constexpr std::size_t kGroup = std::max(
    {kTilePanels<Cell::InputGates::count>, kTilePanels<Cell::StateGates::count>, kTilePanels<Cell::LateGates::count>});

template <class T>
const T* as(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* as(void* p) {
  return static_cast<T*>(p);
}

// Threads for `work` fused multiply-adds: below a few microseconds each, waking them costs more than they give.
inline int threads_for(double work) { return int(std::clamp(work / (1 << 17), 1.0, double(num_threads()))); }

// to[accumulator] += each gate's part of a vector (…·H) or null, for the hidden units from `unit` on.
template <class Gates, class T>
void add_gates(const void* vector, std::size_t H, std::size_t unit, T* to) {
  if (!vector) return;
  for (int c = 0; c < Gates::count; ++c) {
    T* const sum = to + Gates::accumulators[c] * Vec<T>::size;
    store(sum, load<T>(sum) + load_some<T>(as<T>(vector) + (Gates::first + c) * H + unit, H - unit));
  }
}

// What precedes the matrices in the panel of the hidden units from `unit` on.
template <class Cell>
void pack_start(const CellWeights& w, std::size_t H, std::size_t unit, typename Cell::Scalar* to) {
  using T = typename Cell::Scalar;
  constexpr std::size_t N = Layout<Cell>::N, A = Cell::accumulators;
  std::fill_n(to, Layout<Cell>::kStart, T(0));
  T* const gains = to + Layout<Cell>::kGains;
  T* const biases = Cell::layer_norm ? gains + A * N : to;
  add_gates<typename Cell::InputGates>(w.bias_ih, H, unit, biases);
  add_gates<typename Cell::StateGates>(w.bias_hh, H, unit, biases);
  add_gates<typename Cell::LateGates>(w.bias_hh, H, unit, biases);
  if constexpr (Cell::layer_norm) {
    add_gates<typename Cell::InputGates>(w.gain_ih, H, unit, gains);
    add_gates<typename Cell::StateGates>(w.gain_hh, H, unit, gains);
    if constexpr (Cell::states > 1) {
      add_gates<Gates<0, 0>>(w.gain_c, H, unit, gains + 2 * A * N);
      add_gates<Gates<0, 1>>(w.bias_c, H, unit, gains + 2 * A * N);
    }
  }
  for (int i = 0; i < Cell::peepholes; ++i)
    store(to + (Cell::accumulators + i) * N, load_some<T>(as<T>(w.weight_ch) + i * H + unit, H - unit));
}

template <class Cell>
std::size_t packed_bytes(std::size_t I, std::size_t H, std::size_t P, Storage storage) {
  return Layout<Cell>{I, H, P, storage}.total() * sizeof(typename Cell::Scalar);
}

// A panel of a weight matrix (…·H, K) as it is stored.
template <class Gates, class T>
void pack_panel(const T* w, std::size_t H, std::size_t unit, std::size_t K, Storage storage, T* to) {
  if (storage == Storage::same) return pack_transposed<Gates>(w, H, K, unit, K, to);
  if constexpr (std::is_same_v<T, float>)
    if (storage == Storage::int8) return pack_codes<Gates>(w, H, unit, K, to);
  constexpr std::size_t width = Gates::count * Vec<T>::size;
  T* const room = as<T>(scratch(kPackBlock * width * sizeof(T)));
  for (std::size_t k = 0; k < K; k += kPackBlock) {
    const std::size_t ks = std::min(kPackBlock, K - k);
    pack_transposed<Gates>(w + k, H, K, unit, ks, room);
    BFloat16* const narrow = reinterpret_cast<BFloat16*>(to) + k * width;
    for (std::size_t i = 0; i < ks; ++i)
      for (std::size_t j = 0; j < width; ++j)
        narrow[i / 2 * 2 * width + 2 * j + i % 2] = BFloat16(float(room[i * width + j]));
  }
}

// Rows as products with weights of a storage take them: packed, or quantised, each then `row_size` long.
inline std::size_t row_size(Storage storage, std::size_t K) { return storage == Storage::int8 ? codes_size(K) : K; }
template <class T>
const T* rows_for(Storage storage, const T* a, std::size_t ld, std::size_t rows, std::size_t K, T* room) {
  if constexpr (std::is_same_v<T, float>)
    if (storage == Storage::int8) {
      quantize_each_row(rows, K, room, [&](std::size_t row) { return a + row * ld; });
      return room;
    }
  return pack_rows(a, ld, 1, rows, K, room);
}

// partial += such rows · panels, as `accumulate` adds, the panels `stride` apart, in units of T.
template <int A, class Gates, class T>
void accumulate_packed(std::size_t rows, std::size_t panels, T* partial, const T* a, std::size_t K, const T* panel,
                       std::size_t stride, Storage storage, std::size_t packed_rows) {
  if constexpr (std::is_same_v<T, float>) {
    if (storage == Storage::bfloat16)
      return accumulate<A, Gates>(
          rows, panels, partial, a, K,
          PackedPanels<Gates, T, BFloat16>{reinterpret_cast<const BFloat16*>(panel), 2 * stride}, packed_rows);
    if (storage == Storage::int8) return accumulate_codes<A, Gates>(rows, panels, partial, a, K, panel, stride);
  }
  accumulate<A, Gates>(rows, panels, partial, a, K, PackedPanels<Gates, T>{panel, stride}, packed_rows);
}

template <class Cell>
void pack(const CellWeights& w, std::size_t I, std::size_t H, std::size_t P, void* packed) {
  using T = typename Cell::Scalar;
  const Layout<Cell> layout{I, H, P, w.storage};
  parallel(threads_for(4 * double(layout.total())), [&](const Team& team) {
    const Share own(layout.panels(), 1, team.thread, team.threads);
    for (std::size_t panel = own.begin; panel < own.end; ++panel) {
      const std::size_t unit = panel * Layout<Cell>::N;
      T* const to = as<T>(packed) + panel * layout.size();
      pack_start<Cell>(w, H, unit, to);
      const auto matrix = [&]<class Gates>(Gates, const void* weights, std::size_t K, std::size_t offset) {
        if constexpr (Gates::count > 0) pack_panel<Gates>(as<T>(weights), H, unit, K, w.storage, to + offset);
      };
      matrix(typename Cell::InputGates{}, w.weight_ih, I, Layout<Cell>::kStart);
      matrix(typename Cell::StateGates{}, w.weight_hh, P, layout.state());
      matrix(typename Cell::LateGates{}, w.weight_hh, P, layout.late());
    }
    const Share outputs(layout.projection_panels(), 1, team.thread, team.threads);
    for (std::size_t panel = outputs.begin; panel < outputs.end; ++panel)
      pack_panel<Outputs>(as<T>(w.weight_hr), P, panel * Layout<Cell>::N, H, w.storage,
                          as<T>(packed) + layout.projection() + panel * layout.projection_size());
  });
}

// Panels' initial values, to the accumulators (rows, panels, A, lanes); the panels lie `stride` apart.
template <int A, class T>
FN void start_accumulators(const T* panel, std::size_t stride, std::size_t rows, std::size_t panels, T* partial) {
  constexpr std::size_t size = A * Vec<T>::size;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t p = 0; p < panels; ++p, partial += size) std::copy_n(panel + p * stride, size, partial);
}

// Vectors side by side: the accumulators of N hidden units, or their peepholes.
template <int count, class T>
FN void load_vectors(const T* from, Vec<T>* to) {
  for (int j = 0; j < count; ++j) to[j] = load<T>(from + j * Vec<T>::size);
}
template <int count, class T>
FN void store_vectors(T* to, const Vec<T>* from) {
  for (int j = 0; j < count; ++j) store(to + j * Vec<T>::size, from[j]);
}

// What backward needs of the gates of a row of `saved`, for the hidden units from `unit` on: the gates' values, then
// what was normalised.
template <class Cell, class T>
FN void store_saved(void* saved, std::size_t row, std::size_t H, std::size_t unit, const Vec<T>* a,
                    const Vec<T>* normalized = nullptr) {
  T* const to = as<T>(saved) + row * std::size_t(Cell::saved) * H + unit;
  for (int j = 0; j < Cell::saved; ++j)
    store_some(to + std::size_t(j) * H, j < Cell::values ? a[j] : normalized[j - Cell::values], H - unit);
}
// The first `count` of these vectors.
template <class Cell, int count, class T>
FN void load_saved(const void* saved, std::size_t row, std::size_t H, std::size_t unit, Vec<T>* a) {
  const T* const from = as<T>(saved) + row * std::size_t(Cell::saved) * H + unit;
  for (int j = 0; j < count; ++j) a[j] = load_some<T>(from + std::size_t(j) * H, H - unit);
}

// The peepholes of the hidden units from `unit` on, of weights that are not packed.
template <class Cell, class T>
FN void load_peepholes(const CellWeights& weights, std::size_t H, std::size_t unit, Vec<T>* w) {
  for (int j = 0; j < Cell::peepholes; ++j)
    w[j] = load_some<T>(as<T>(weights.weight_ch) + std::size_t(j) * H + unit, H - unit);
}

}  // namespace fusedstep::ISA
