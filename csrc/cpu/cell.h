// One step of a recurrent cell over B rows: the products of gemm.h with the cell's gate mathematics on the accumulators
// while they are still in L1.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/noise.h"
#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/pack.h"
#include "cpu/rnn.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

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

// What the threads of a step share.
template <class Cell>
struct StepRoom {
  using T = typename Cell::Scalar;
  static constexpr bool has_late = Cell::LateGates::count > 0;

  const T* h;  // (B, H), rows ld_h apart: a copy where it is overwritten while other panels still read it
  std::size_t ld_h;
  T *kept, *reset_h;  // what passes from the first product to the second: accumulators, panel by panel, and r·h (B, H)

  explicit StepRoom(const CellForward& call) : h(as<T>(call.state[0])), ld_h(call.ld_state[0]) {
    const std::size_t B = call.B, H = call.H, panels = Layout<Cell>{call.I, H, H}.panels(),
                      kept_size = has_late ? B * panels * Cell::accumulators * Layout<Cell>::N : 0;
    kept = as<T>(scratch((kept_size + 2 * B * H) * sizeof(T), 1));
    reset_h = kept + kept_size;
    if (call.out[0] != call.state[0]) return;
    T* const copy = reset_h + B * H;
    for (std::size_t row = 0; row < B; ++row) std::copy_n(h + row * ld_h, H, copy + row * H);
    h = copy;
    ld_h = H;
  }
};

// One thread of a step: blocks of rows, group by group of panels.
template <class Cell>
class StepThread {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  static constexpr int A = Cell::accumulators;
  static constexpr std::size_t N = V::size, kGates = A * N;
  static constexpr bool has_late = StepRoom<Cell>::has_late;

 public:
  StepThread(const CellForward& call, const StepRoom<Cell>& room, const Team& team)
      : call_(call),
        room_(room),
        team_(team),
        layout_{call.I, call.H, call.H, call.weights.storage},
        group_(Panels<Cell>::group(call.weights, call.B)) {
    const std::size_t block = std::min(kRowBlock, call.B), gates_size = std::max(block, group_) * kGates,
                      rows_size =
                          block * std::max(row_size(layout_.storage, call.I), row_size(layout_.storage, call.H));
    gates_ = as<T>(scratch((gates_size + 2 * rows_size + Panels<Cell>::kRoom) * sizeof(T)));
    x_ = gates_ + gates_size;
    h_ = x_ + rows_size;
    panel_ = h_ + rows_size;
  }

  void run() {
    thread_local bool turn = false;  // calls take the panels in turns
    turn = !turn;
    first_products(turn);
    if constexpr (has_late) {
      team_.barrier();
      second_product(turn);
    }
  }

 private:
  // Rows of some panels: their gates are (rows, panels, A, N).
  struct Part {
    const Panels<Cell> of;
    std::size_t first, panels, row, rows;
    T* gates;
  };

  void first_products(bool turn) {
    const std::size_t I = call_.I, H = call_.H;
    each_block([&](std::size_t row, std::size_t rows, std::size_t begin, std::size_t end) {
      const T* const x = rows_for(layout_.storage, as<T>(call_.x) + row * call_.ld_x, call_.ld_x, rows, I, x_);
      const T* const h = rows_for(layout_.storage, room_.h + row * room_.ld_h, room_.ld_h, rows, H, h_);
      each_part(row, rows, begin, end, turn, [&](const Part& part) {
        start_accumulators<A>(part.of.start(0), layout_.size(), rows, part.panels, part.gates);
        part.of.template add<typename Cell::InputGates>(rows, part.gates, x, call_.weights.weight_ih, I,
                                                        layout_.kStart);
        part.of.template add<typename Cell::StateGates>(rows, part.gates, h, call_.weights.weight_hh, H,
                                                        layout_.state());
        if constexpr (has_late)
          reset(part);
        else
          close(part);
      });
    });
  }
  void second_product(bool turn) {
    const std::size_t H = call_.H;
    each_block([&](std::size_t row, std::size_t rows, std::size_t begin, std::size_t end) {
      const T* const h = rows_for(layout_.storage, room_.reset_h + row * H, H, rows, H, h_);
      each_part(row, rows, begin, end, turn, [&](const Part& part) {
        part.of.template add<typename Cell::LateGates>(rows, part.gates, h, call_.weights.weight_hh, H, layout_.late());
        close(part);
      });
    });
  }

  // r·h, which the second product multiplies.
  void reset(const Part& part) {
    each_vector(part, [&](std::size_t row, std::size_t, std::size_t unit, V* a, V* s, T* gates) {
      store_some(room_.reset_h + row * call_.H + unit, Cell::reset(a, s[0]), call_.H - unit);
      store_vectors<A>(gates, a);
    });
  }
  // The cell's mathematics on accumulators that are complete.
  void close(const Part& part) {
    each_vector(part,
                [&](std::size_t row, std::size_t p, std::size_t unit, V* a, V* s, T*) __attribute__((always_inline)) {
      V w[Cell::peepholes + 1], before[Cell::states];
      load_vectors<Cell::peepholes>(part.of.start(p) + kGates, w);
      std::copy_n(s, Cell::states, before);
      Cell::forward(a, s, w);
      for (int i = 0; i < Cell::states; ++i) s[i] = zoneout_mean(call_.zoneout[i], before[i], s[i]);
      for (int i = 0; i < Cell::states; ++i)
        store_some(as<T>(call_.out[i]) + row * call_.H + unit, s[i], call_.H - unit);
      if (call_.saved) store_saved<Cell>(call_.saved, row, call_.H, unit, a);
    });
  }

  // f(first row, rows, first panel, last panel) for this thread's share.
  template <class F>
  FN void each_block(F f) const {
    split_blocks(team_, call_.B, layout_.panels(), f);
  }
  template <class F>
  FN void each_part(std::size_t row, std::size_t rows, std::size_t begin, std::size_t end, bool turn, F f) const {
    each_group(begin, end, group_, turn, [&](std::size_t first, std::size_t panels) {
      T* const gates = has_late ? room_.kept + (first * call_.B + row) * kGates : gates_;
      f(Part{{call_.weights, layout_, first, panels, panel_}, first, panels, row, rows, gates});
    });
  }
  // f(row, panel among these, unit, accumulators, state, where the accumulators are) for every vector of units.
  template <class F>
  FN void each_vector(const Part& part, F f) const {
    T* gates = part.gates;
    for (std::size_t row = part.row; row < part.row + part.rows; ++row)
      for (std::size_t p = 0; p < part.panels; ++p, gates += kGates) {
        const std::size_t unit = (part.first + p) * N, lanes = call_.H - unit;
        V a[A], s[Cell::states];
        load_vectors<A>(gates, a);
        s[0] = load_some<T>(room_.h + row * room_.ld_h + unit, lanes);
        for (int i = 1; i < Cell::states; ++i)
          s[i] = load_some<T>(as<T>(call_.state[i]) + row * call_.ld_state[i] + unit, lanes);
        f(row, p, unit, a, s, gates);
      }
  }

  const CellForward& call_;
  const StepRoom<Cell>& room_;
  const Team& team_;
  const Layout<Cell> layout_;
  const std::size_t group_;
  T *gates_, *x_, *h_, *panel_;  // of a block: accumulators, rows of x, of h or r·h; a panel that is packed on the way
};

template <class Cell>
void forward(const CellForward& call) {
  const std::size_t state_gates = Cell::StateGates::count + Cell::LateGates::count;
  const double work = double(call.B) * double(call.H) * double(call.I * Cell::InputGates::count + call.H * state_gates);
  const StepRoom<Cell> room(call);
  parallel(threads_for(work), [&](const Team& team) { StepThread<Cell>(call, room, team).run(); });
}

}  // namespace fusedstep::ISA
