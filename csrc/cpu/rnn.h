// One step of a recurrent cell, forward and backward, over B rows: the products of gemm.h with the cell's gate
// mathematics on the accumulators while they are still in L1.
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
#include "cpu/noise.h"
#include "cpu/pack.h"
#include "cpu/product.h"

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

// The panels as a thread sees them: those of a frozen module, or one that is packed on the way.
template <class Cell>
class Panels {
  using T = typename Cell::Scalar;

 public:
  // How many of them are passed at once.
  static std::size_t group(const CellWeights& w, std::size_t rows) { return rows == 1 && w.packed ? kGroup<Cell> : 1; }
  static constexpr std::size_t kRoom = Layout<Cell>::kStart + kPackBlock * 4 * Layout<Cell>::N;

  Panels(const CellWeights& w, const Layout<Cell>& layout, std::size_t first, std::size_t panels, T* room)
      : w_(w), layout_(layout), first_(first), panels_(panels), room_(room) {
    if (!w.packed) pack_start<Cell>(w, layout.H, first * Layout<Cell>::N, room);
  }

  // Initial values and peepholes of panel p of these.
  const T* start(std::size_t p) const { return w_.packed ? packed() + p * layout_.size() : room_; }
  // partial += rows · these panels of a weight matrix (…·H, K), which lie at `offset` of a packed panel.
  template <class Gates>
  void add(std::size_t rows, T* partial, const T* a, const void* matrix, std::size_t K, std::size_t offset) const {
    constexpr int A = Cell::accumulators;
    if (w_.packed)
      accumulate_packed<A, Gates>(rows, panels_, partial, a, K, packed() + offset, layout_.size(), w_.storage, rows);
    else if (rows == 1)
      accumulate_row<Gates>(partial, a, as<T>(matrix), layout_.H, K, first_ * Layout<Cell>::N);
    else
      accumulate<A, Gates>(
          rows, 1, partial, a, K,
          PackingPanel<Gates, T>{as<T>(matrix), layout_.H, K, first_ * Layout<Cell>::N, room_ + Layout<Cell>::kStart},
          rows);
  }

 private:
  const T* packed() const { return as<T>(w_.packed) + first_ * layout_.size(); }

  const CellWeights& w_;
  const Layout<Cell>& layout_;
  const std::size_t first_, panels_;
  T* const room_;
};

template <class Cell>
void forward(const CellForward& call) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using Input = typename Cell::InputGates;
  using State = typename Cell::StateGates;
  using Late = typename Cell::LateGates;
  constexpr int A = Cell::accumulators;
  constexpr std::size_t N = V::size;
  constexpr bool has_late = Late::count > 0;
  const std::size_t B = call.B, I = call.I, H = call.H;
  const Storage storage = call.weights.storage;
  const Layout<Cell> layout{I, H, H, storage};

  // h where it is overwritten while other panels still read it, then what passes from the first product to the second.
  const bool in_place = call.out[0] == call.state[0];
  const std::size_t kept_size = has_late ? B * layout.panels() * A * N : 0, rows_size = B * H;
  T* const kept = as<T>(scratch((kept_size + 2 * rows_size) * sizeof(T), 1));
  T* const reset_h = kept + kept_size;
  const T* h = as<T>(call.state[0]);
  std::size_t ld_h = call.ld_state[0];
  if (in_place) {
    T* const copy = reset_h + rows_size;
    for (std::size_t row = 0; row < B; ++row) std::copy_n(h + row * ld_h, H, copy + row * H);
    h = copy;
    ld_h = H;
  }

  const double work = double(B) * double(H) * double(I * Input::count + H * (State::count + Late::count));
  parallel(threads_for(work), [&](const Team& team) {
    thread_local bool turn = false;  // calls take the panels in turns
    turn = !turn;
    const std::size_t group = Panels<Cell>::group(call.weights, B), block = std::min(kRowBlock, B);
    const std::size_t partial_size = std::max(block, group) * A * N,
                      rows_size_each = block * std::max(row_size(storage, I), row_size(storage, H));
    T* const partial_room = as<T>(scratch((partial_size + 2 * rows_size_each + Panels<Cell>::kRoom) * sizeof(T)));
    T* const x_room = partial_room + partial_size;
    T* const h_room = x_room + rows_size_each;
    T* const panel_room = h_room + rows_size_each;
    const auto partial_of = [&](std::size_t panel, std::size_t row) {
      return has_late ? kept + (panel * B + row) * A * N : partial_room;
    };
    // f(a, s, row, panel's place in the block, unit, lanes) for every vector of hidden units of a block.
    const auto each_vector = [&](T* partial, std::size_t first, std::size_t panels, std::size_t begin, std::size_t rows,
                                 auto f) __attribute__((always_inline)) {
      for (std::size_t row = begin; row < begin + rows; ++row)
        for (std::size_t p = 0; p < panels; ++p, partial += A * N) {
          const std::size_t unit = (first + p) * N, lanes = H - unit;
          V a[A], s[Cell::states];
          for (int i = 0; i < A; ++i) a[i] = load<T>(partial + i * N);
          s[0] = load_some<T>(h + row * ld_h + unit, lanes);
          for (int i = 1; i < Cell::states; ++i)
            s[i] = load_some<T>(as<T>(call.state[i]) + row * call.ld_state[i] + unit, lanes);
          f(a, s, partial, row, p, unit, lanes);
        }
    };
    const auto finish = [&](const Panels<Cell>& of, T* partial, std::size_t first, std::size_t panels, std::size_t row,
                            std::size_t rows) {
      each_vector(partial, first, panels, row, rows,
                  [&](V* a, V* s, T*, std::size_t r, std::size_t p, std::size_t unit, std::size_t lanes)
                      __attribute__((always_inline)) {
        V w[Cell::peepholes + 1];
        for (int i = 0; i < Cell::peepholes; ++i) w[i] = load<T>(of.start(p) + (A + i) * N);
        V before[Cell::states];
        std::copy_n(s, Cell::states, before);
        Cell::forward(a, s, w);
        for (int i = 0; i < Cell::states; ++i) s[i] = zoneout_mean(call.zoneout[i], before[i], s[i]);
        for (int i = 0; i < Cell::states; ++i) store_some(as<T>(call.out[i]) + r * H + unit, s[i], lanes);
        if (call.saved)
          for (int i = 0; i < Cell::saved; ++i)
            store_some(as<T>(call.saved) + (r * Cell::saved + i) * H + unit, a[i], lanes);
      });
    };

    split_blocks(team, B, layout.panels(), [&](std::size_t row, std::size_t rows, std::size_t begin, std::size_t end) {
      const T* const rows_of_x = rows_for(storage, as<T>(call.x) + row * call.ld_x, call.ld_x, rows, I, x_room);
      const T* const rows_of_h = rows_for(storage, h + row * ld_h, ld_h, rows, H, h_room);
      each_group(begin, end, group, turn, [&](std::size_t first, std::size_t panels) {
        const Panels<Cell> of(call.weights, layout, first, panels, panel_room);
        T* const partial = partial_of(first, row);
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t p = 0; p < panels; ++p) std::copy_n(of.start(p), A * N, partial + (r * panels + p) * A * N);
        of.template add<Input>(rows, partial, rows_of_x, call.weights.weight_ih, I, Layout<Cell>::kStart);
        of.template add<State>(rows, partial, rows_of_h, call.weights.weight_hh, H, layout.state());
        if constexpr (has_late) {
          each_vector(partial, first, panels, row, rows,
                      [&](V* a, V* s, T* at, std::size_t r, std::size_t, std::size_t unit, std::size_t lanes) {
            store_some(reset_h + r * H + unit, Cell::reset(a, s[0]), lanes);
            for (int i = 0; i < A; ++i) store(at + i * N, a[i]);
          });
        } else {
          finish(of, partial, first, panels, row, rows);
        }
      });
    });
    if constexpr (has_late) {
      team.barrier();
      split_blocks(team, B, layout.panels(),
                   [&](std::size_t row, std::size_t rows, std::size_t begin, std::size_t end) {
        const T* const rows_of_h = rows_for(storage, reset_h + row * H, H, rows, H, h_room);
        each_group(begin, end, group, turn, [&](std::size_t first, std::size_t panels) {
          const Panels<Cell> of(call.weights, layout, first, panels, panel_room);
          T* const partial = partial_of(first, row);
          of.template add<Late>(rows, partial, rows_of_h, call.weights.weight_hh, H, layout.late());
          finish(of, partial, first, panels, row, rows);
        });
      });
    }
  });
}

template <class Cell>
void backward(const CellBackward& call) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  constexpr std::size_t N = V::size, G = Cell::gates;
  constexpr bool has_late = Cell::LateGates::count > 0;
  constexpr std::size_t state_gates = has_late ? Cell::LateGates::first : G;  // gates whose product sees h, not r·h
  const std::size_t B = call.B, I = call.I, H = call.H, GH = G * H;

  // Gradients of the preactivations as the input's product sees them, and as the state's does.
  constexpr std::size_t terms = Cell::peepholes + (has_late ? 2 : 0);
  constexpr std::size_t extra = (Cell::separate_state_gradients ? G : 0) + terms + 1;
  T* const dgates = as<T>(scratch((G + extra) * B * H * sizeof(T), 1));
  T* const dgates_state = Cell::separate_state_gradients ? dgates + B * GH : dgates;
  T* const rest = dgates_state + B * GH;    // (peepholes, B, H): terms of their gradients; or r·h and its gradient
  T* const through = rest + terms * B * H;  // (B, H): what of dh passed W_hh
  T* const dh = as<T>(call.dstate[0]);
  const T* const h = as<T>(call.state[0]);
  const std::size_t ld_h = call.ld_state[0];
  const T* const weight_ih = as<T>(call.weights.weight_ih);
  const T* const weight_hh = as<T>(call.weights.weight_hh);

  parallel(threads_for(2 * double(B) * double(H) * double(G) * double(I + H)), [&](const Team& team) {
    // f(row, unit, lanes) for this thread's share of the rows' vectors.
    const auto each_vector = [&](auto f) __attribute__((always_inline)) {
      const std::size_t vectors = (H + N - 1) / N;
      const Share share(B * vectors, 1, team.thread, team.threads);
      for (std::size_t at = share.begin; at < share.end; ++at) f(at / vectors, at % vectors * N, H - at % vectors * N);
    };
    each_vector([&](std::size_t row, std::size_t unit, std::size_t lanes) {
      V a[Cell::saved], s[Cell::states], next[Cell::states], ds[Cell::states], w[Cell::peepholes + 1], da[G],
          da_state[G];
      const std::size_t at = row * H + unit;
      for (int i = 0; i < Cell::saved; ++i)
        a[i] = load_some<T>(as<T>(call.saved) + (row * Cell::saved + i) * H + unit, lanes);
      for (int i = 0; i < Cell::states; ++i) {
        s[i] = load_some<T>(as<T>(call.state[i]) + row * call.ld_state[i] + unit, lanes);
        next[i] = load_some<T>(as<T>(call.out[i]) + at, lanes);
        ds[i] = load_some<T>(as<T>(call.dout[i]) + at, lanes);
      }
      for (int i = 0; i < Cell::peepholes; ++i)
        w[i] = load_some<T>(as<T>(call.weights.weight_ch) + i * H + unit, lanes);
      Cell::backward(a, s, next, ds, w, da, da_state);
      for (std::size_t i = 0; i < G; ++i) {
        store_some(dgates + row * GH + i * H + unit, da[i], lanes);
        if constexpr (Cell::separate_state_gradients)
          store_some(dgates_state + row * GH + i * H + unit, da_state[i], lanes);
      }
      for (int i = 0; i < Cell::states; ++i) store_some(as<T>(call.dstate[i]) + at, ds[i], lanes);
      if constexpr (Cell::peepholes > 0)
        for (int i = 0; i < Cell::peepholes; ++i)
          store_some(rest + i * B * H + at, da[Cell::peephole_gate[i]] * (Cell::peephole_sees_next[i] ? next : s)[1],
                     lanes);
    });
    team.barrier();

    T* const reset_h = rest;
    if constexpr (has_late) {
      T* const dreset_h = rest + B * H;
      multiply(team, Sum::chain, B, (G - state_gates) * H, dgates + state_gates * H, GH, 1,
               RowMajor<T>{weight_hh + state_gates * H * H, H, H}, dreset_h, H);
      team.barrier();
      each_vector([&](std::size_t row, std::size_t unit, std::size_t lanes) {
        const std::size_t at = row * H + unit;
        const V r = load_some<T>(as<T>(call.saved) + row * Cell::saved * H + unit, lanes);
        const V state = load_some<T>(h + row * ld_h + unit, lanes);
        V dr, direct = load_some<T>(dh + at, lanes);
        Cell::reset_backward(r, state, load_some<T>(dreset_h + at, lanes), dr, direct);
        store_some(dgates + row * GH + unit, dr, lanes);
        store_some(dh + at, direct, lanes);
        store_some(reset_h + at, r * state, lanes);
      });
      team.barrier();
    }

    multiply(team, Sum::chain, B, GH, dgates, GH, 1, RowMajor<T>{weight_ih, I, I}, as<T>(call.dx), I);
    multiply(team, Sum::chain, B, state_gates * H, dgates_state, GH, 1, RowMajor<T>{weight_hh, H, H}, through, H);

    // Sums over the batch: M columns of gate gradients with N columns of what those gates' weights multiplied.
    const auto sum_over_batch = [&](const T* d, std::size_t ld_d, std::size_t M, const T* y, std::size_t ld_y,
                                    std::size_t columns, void* to, std::size_t offset = 0) {
      multiply(team, Sum::blocks, M, B, d, 1, ld_d, RowMajor<T>{y, ld_y, columns}, as<T>(to) + offset, columns);
    };
    sum_over_batch(dgates, GH, GH, as<T>(call.x), call.ld_x, I, call.dweight_ih);
    sum_over_batch(dgates_state, GH, state_gates * H, h, ld_h, H, call.dweight_hh);
    if constexpr (has_late)
      sum_over_batch(dgates + state_gates * H, GH, (G - state_gates) * H, reset_h, H, H, call.dweight_hh,
                     state_gates * H * H);
    const T one = 1;
    sum_over_batch(&one, 0, 1, dgates, GH, GH, call.dbias_ih);
    sum_over_batch(&one, 0, 1, dgates_state, GH, GH, call.dbias_hh);
    for (int i = 0; i < Cell::peepholes; ++i)
      sum_over_batch(&one, 0, 1, rest + i * B * H, H, H, call.dweight_ch, i * H);

    team.barrier();
    each_vector([&](std::size_t row, std::size_t unit, std::size_t lanes) {
      const std::size_t at = row * H + unit;
      store_some(dh + at, load_some<T>(dh + at, lanes) + load_some<T>(through + at, lanes), lanes);
    });
  });
}

}  // namespace fusedstep::ISA
