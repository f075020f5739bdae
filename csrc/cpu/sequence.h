// Whole sequences, forward: the sweeps of a layer's directions, side by side.
//
// A chunk of steps shares one product with W_ih, into panels of the gates' initial values; then each step adds its
// product with W_hh and ends in the cell's mathematics. A thread owns panels, that is hidden units, for the whole
// sequence; after a step, and after the first product of a cell with two, one barrier passes h on. Where h is a
// projection W_hr·m of the cell's output m, a barrier passes m on to the owners of panels of W_hr, and another their h.
// Where rows are normalised one more barrier precedes the gates, and another c′'s norm.
// Where the weights are int8 codes, so are the rows that meet them: of h, r·h and m each thread quantises a share, with
// one more barrier.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/norm.h"
#include "cpu/pairs.h"
#include "cpu/rnn.h"
#include "cpu/sequence_room.h"
#include "cpu/sequence_state.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

// One thread of the sweeps: the gates of the units that it owns, step by step.
template <class Cell>
class SweepThread {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using View = SweepView<T>;
  using Late = typename Cell::LateGates;
  static constexpr int A = Cell::accumulators;
  static constexpr std::size_t N = V::size, kGates = A * N;  // of a row's units in a panel
  static constexpr bool has_late = Late::count > 0, has_norms = Cell::layer_norm,
                        has_output = has_norms && Cell::states > 1;

 public:
  SweepThread(const SweepRoom<T>& room, const Team& team, std::size_t begin, std::size_t end)
      : room_(room),
        team_(team),
        layout_{room.I, room.H, room.P, room.storage},
        state_(room, team, owned_panels<Cell>(N), begin, end),
        begin_(begin),
        end_(end),
        chunk_steps_(std::clamp<std::size_t>(kChunkRows / room.B, 1, std::max<std::size_t>(1, end - begin))),
        chunk_rows_(chunk_steps_ * room.B),
        group_(room.alone ? kGroup<Cell> : 1) {
    std::size_t own_panels = 0;
    state_.each_own_panel([&](const View&, std::size_t first, std::size_t last) { own_panels += last - first; });
    const std::size_t gates_size = own_panels * chunk_rows_ * kGates, group_size = group_ * kGates,
                      outputs_size = projected() ? state_.outputs_room(room.B) : 0,
                      x_size = std::min(kRowBlock, chunk_rows_) * row_size(room.storage, room.I),
                      statistics_size = std::size_t(room.n) * RowValues<T>{room.B, nullptr}.size(kNorms<Cell>);
    gates_ = as<T>(scratch((gates_size + group_size + outputs_size + x_size + statistics_size) * sizeof(T)));
    group_gates_ = gates_ + gates_size;
    outputs_ = group_gates_ + group_size;
    x_ = outputs_ + outputs_size;
    statistics_ = x_ + x_size;
  }

  void run() {
    state_.load_all();
    team_.barrier();
    for (step_ = begin_; step_ < end_; ++step_) {
      if ((step_ - begin_) % chunk_steps_ == 0) begin_chunk();
      first_product();
      if constexpr (has_norms) close_normalized();
      if constexpr (has_late) second_product();
      team_.barrier();
      if (!projected()) continue;
      state_.project(step_, layout_.projection(), layout_.projection_size(), outputs_);
      team_.barrier();
    }
    state_.store_all();
  }

 private:
  // What passes a product at once: a block of rows of one panel, or one row of several panels.
  struct Part {
    const View& of;
    const T* packed;  // the first panel
    std::size_t first, panels;
    T* gates;                      // (live, panels, A, N)
    std::size_t row0, rows, live;  // of the block's rows the first `live` take part in the step
  };

  bool projected() const { return Cell::can_project && room_.projected; }
  RowValues<T> statistics_of(std::size_t sweep) const {
    return {room_.B, statistics_ + sweep * RowValues<T>{room_.B, nullptr}.size(kNorms<Cell>)};
  }

  // Gates' initial values of a chunk of steps: biases and the product with W_ih.
  void begin_chunk() {
    chunk_ = step_;
    each_own_gates([&](const View& v, std::size_t first, std::size_t last, T* gates) {
      const std::size_t from = v.pairs.number(step_, 0),
                        all = v.pairs.number(std::min(end_, step_ + chunk_steps_), 0) - from,
                        parts = (all + kRowBlock - 1) / kRowBlock;
      for (std::size_t part = 0; part < parts; ++part) {
        const std::size_t row = all * part / parts, rows = all * (part + 1) / parts - row;
        v.pairs.pack_x(from + row, from + row + rows, room_.storage, x_);
        // One row alone passes several panels at once.
        const std::size_t together = chunk_rows_ == 1 ? group_ : 1;
        for (std::size_t p = first; p < last; p += together) {
          const std::size_t panels = std::min(together, last - p);
          const T* const packed = v.packed + p * layout_.size();
          T* const to = gates + ((p - first) * chunk_rows_ + row) * kGates;
          start_accumulators<A>(packed, layout_.size(), rows, panels, to);
          accumulate_packed<A, typename Cell::InputGates>(rows, panels, to, x_, room_.I, packed + layout_.kStart,
                                                          layout_.size(), room_.storage, rows);
        }
      }
    });
  }

  // Adds the product with W_hh. Where nothing more is waited for, the gates close.
  void first_product() {
    state_.quantize_rows(Operand::h, step_);
    each_part([&](const Part& part) {
      add_product<typename Cell::StateGates>(part, Operand::h, layout_.state());
      if constexpr (has_late)
        reset(part);
      else if constexpr (!has_norms)
        close(part);
    });
  }
  // r·h, which the second product multiplies.
  void reset(const Part& part) {
    each_vector(part, [&](const Spot& at, const T*, T* gates) __attribute__((always_inline)) {
      V a[A];
      load_vectors<A>(gates, a);
      const V h = load_some<T>(room_.h_blocks.at(part.of.h[state_.turn(step_)], at), room_.H - at.unit);
      store_some(room_.h_blocks.at(part.of.reset_h, at), Cell::reset(a, h), room_.H - at.unit);
      store_vectors<A>(gates, a);
    });
  }
  void second_product() {
    team_.barrier();
    state_.quantize_rows(Operand::reset_h, step_);
    each_part([&](const Part& part) {
      add_product<Late>(part, Operand::reset_h, layout_.late());
      close(part);
    });
  }
  // Adds the product with the weights that lie at `offset` of a panel.
  template <class Gates>
  void add_product(const Part& part, Operand which, std::size_t offset) {
    const T* const rows = state_.operand(part.of, which, step_, part.row0);
    accumulate_packed<A, Gates>(part.live, part.panels, part.gates, rows, room_.P, part.packed + offset, layout_.size(),
                                room_.storage, part.rows);
  }

  // The cell's mathematics on accumulators that are complete.
  void close(const Part& part) {
    const View& v = part.of;
    each_vector(part, [&](const Spot& at, const T* packed, T* gates) __attribute__((always_inline)) {
      V a[A], w[Cell::peepholes + 1], normalized[A];
      load_vectors<A>(gates, a);
      load_vectors<Cell::peepholes>(packed + kGates, w);
      if constexpr (has_norms) normalize<Cell>(statistics_of(v.index), at.row(), packed, a, normalized);
      if constexpr (has_output) {  // o and c′ wait for its norm, where accumulators were
        V s[] = {V(T(0)), load<T>(v.c + room_.in_panels(at.row(), at.unit))};
        Cell::forward(a, s, w);
        store(gates, a[Cell::O]);
        store(gates + N, s[1]);
      } else {
        state_.template advance<Cell>(v, step_, at,
                                      [&](V* s) __attribute__((always_inline)) { Cell::forward(a, s, w); });
      }
      const Sweep& sweep = v.pairs.sweep;
      if (sweep.saved) store_saved<Cell>(sweep.saved, v.pairs.number(step_, at.row()), room_.H, at.unit, a, normalized);
    });
  }

  // Statistics of the accumulators, and the gates; then of c′, and h′.
  void close_normalized() {
    constexpr int of_gates = kGateNorms<Cell>, all = kNorms<Cell>;
    share_moments<0, of_gates>(0);
    each_part([&](const Part& part) { close(part); });
    if constexpr (has_output) {
      share_moments<of_gates, all>(1);  // where `close` left it
      each_part([&](const Part& part) {
        each_vector(part, [&](const Spot& at, const T* packed, const T* gates) __attribute__((always_inline)) {
          state_.template advance<Cell>(part.of, step_, at, [&](V* s) __attribute__((always_inline)) {
            s[1] = load<T>(gates + N);
            s[0] = normalized_output<Cell>(statistics_of(part.of.index), at.row(), packed, load<T>(gates), s[1]);
          });
        });
      });
    }
  }
  // Norms first … last-1 of what lies in the gates' place from vector `from` on: the moments of own units; past a
  // barrier, this thread's copy of the statistics of the step's rows. One thread puts them on the tape.
  template <int first_norm, int last_norm>
  void share_moments(std::size_t from) {
    each_own_gates([&](const View& v, std::size_t first, std::size_t last, const T* gates) {
      each_norm_block(v.sums, v.pairs.active(step_), first, last, N, [&](std::size_t row, std::size_t unit) {
        const T* const of = gates + ((unit / N - first) * chunk_rows_ + row) * kGates;
        norm_moments<Cell, first_norm, last_norm>(v.sums, row, unit, [&](int j, std::size_t lane) {
          return of + lane / N * chunk_rows_ * kGates + (from + std::size_t(j)) * N + lane % N;
        });
      });
    });
    team_.barrier();
    state_.each_own_panel([&](const View& v, std::size_t first, std::size_t) {
      const std::size_t rows = v.pairs.active(step_);
      const RowValues<T> statistics = statistics_of(v.index);
      row_statistics<Cell>(v.sums, rows, first_norm, last_norm, statistics);
      if (first == 0 && v.pairs.sweep.statistics)
        store_statistics<Cell>(v.pairs.sweep, v.pairs.number(step_, 0), rows, first_norm, last_norm, statistics);
    });
  }

  // f(view, first panel, last panel, the first one's gates in this step, chunk_rows_ apart from the next one's)
  template <class F>
  void each_own_gates(F f) {
    T* of = gates_;
    state_.each_own_panel([&](const View& v, std::size_t first, std::size_t last) {
      f(v, first, last, of + (v.pairs.number(step_, 0) - v.pairs.number(chunk_, 0)) * kGates);
      of += (last - first) * chunk_rows_ * kGates;
    });
  }
  // f(part) for what this thread owns of the step.
  template <class F>
  void each_part(F f) {
    each_own_gates([&](const View& v, std::size_t first, std::size_t last, T* gates) {
      room_.h_blocks.each(v.pairs.active(step_), [&](std::size_t row0, std::size_t rows, std::size_t live) {
        each_group(first, last, group_, state_.turn(step_), [&](std::size_t p, std::size_t panels) {
          T* const own = gates + ((p - first) * chunk_rows_ + row0) * kGates;
          Part part{v, v.packed + p * layout_.size(), p, panels, own, row0, rows, live};
          if (!room_.alone || chunk_rows_ == 1) return f(part);
          part.gates = group_gates_;  // one row passes several panels at once: their gates side by side
          for (std::size_t j = 0; j < panels; ++j)
            std::copy_n(own + j * chunk_rows_ * kGates, kGates, group_gates_ + j * kGates);
          f(part);
          if constexpr (has_late || has_norms)
            for (std::size_t j = 0; j < panels; ++j)
              std::copy_n(group_gates_ + j * kGates, kGates, own + j * chunk_rows_ * kGates);
        });
      });
    });
  }
  // f(spot, its panel, its gates) for every vector of units of a part.
  template <class F>
  FN void each_vector(const Part& part, F f) {
    T* gates = part.gates;
    for (std::size_t r = 0; r < part.live; ++r)
      for (std::size_t p = 0; p < part.panels; ++p, gates += kGates)
        f(Spot{part.row0, part.rows, r, (part.first + p) * N}, part.packed + p * layout_.size(), gates);
  }

  const SweepRoom<T>& room_;
  const Team& team_;
  const Layout<Cell> layout_;
  SweepState<T> state_;
  const std::size_t begin_, end_, chunk_steps_, chunk_rows_, group_;
  std::size_t step_ = 0, chunk_ = 0;  // this step, and the first one of its chunk
  // This thread's: gates of its panels, (chunk_rows_, A, N) each; those of a group; sums of a projection; rows of x;
  // statistics.
  T *gates_ = nullptr, *group_gates_ = nullptr, *outputs_ = nullptr, *x_ = nullptr, *statistics_ = nullptr;
};

template <class Cell>
void sweep(const Sweep* sweeps, int n, std::size_t begin, std::size_t end) {
  constexpr bool has_late = Cell::LateGates::count > 0;
  const std::size_t B = sweeps->B, H = sweeps->H, P = sweeps->P;
  const bool projected = Cell::can_project && P < H;
  const double weights =
      double(n) * double(H) * double(P) * (Cell::StateGates::count + Cell::LateGates::count + projected);
  const int threads = threads_for_steps(end - begin, B, weights);
  const SweepRoom<typename Cell::Scalar> room(sweeps, n, threads, Cell::states > 1, has_late, kNorms<Cell>);
  parallel(threads, [&](const Team& team) { SweepThread<Cell>(room, team, begin, end).run(); });
}

}  // namespace fusedstep::ISA
