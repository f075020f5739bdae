// Sequences, forward: the state between steps, as one thread moves what it owns of it: noise, resets, projection.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "core/table.h"
#include "cpu/gemm.h"
#include "cpu/int8.h"
#include "cpu/noise.h"
#include "cpu/pairs.h"
#include "cpu/rnn.h"
#include "cpu/sequence_room.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

// What a step's products multiply.
enum class Operand { h, reset_h, m };

template <class T>
class SweepState {
  using V = Vec<T>;
  using View = SweepView<T>;
  static constexpr std::size_t N = V::size;

 public:
  // Of steps begin … end-1; a thread owns `grain` panels of units together.
  SweepState(const SweepRoom<T>& room, const Team& team, std::size_t grain, std::size_t begin, std::size_t end)
      : room_(room), team_(team), grain_(grain), begin_(begin), end_(end) {}

  // f(view, first panel, last panel) for the panels of hidden units that this thread owns.
  template <class F>
  FN void each_own_panel(F f) const {
    each_own(team_, room_.n, room_.panels, grain_,
             [&](std::size_t i, std::size_t first, std::size_t last) { f(room_.view(i), first, last); });
  }

  // Which of the two places of h a step reads; it writes the other one.
  std::size_t turn(std::size_t step) const { return (step - begin_) & 1; }

  // The state before the first step, from the caller's arrays.
  void load_all() const {
    each_own_vector([&](const View& v, const Spot& at) {
      const Sweep& of = v.pairs.sweep;
      const bool zero = std::size_t(of.lengths[at.row()]) > begin_ && v.pairs.reset(begin_, at.row());
      const auto state = [&](int i, std::size_t width) {
        return zero ? V(T(0)) : load_some<T>(v.pairs.row_of(of.state[i], at.row(), width) + at.unit, width - at.unit);
      };
      const std::size_t place = room_.in_panels(at.row(), at.unit);
      if (at.unit < room_.P) {
        V h = state(0, room_.P);
        if (room_.dropping) {
          const V mask = recurrent_mask<T>(of.noise, std::size_t(of.order[at.row()]), at.unit);
          store(v.mask + place, mask);
          store(v.whole_h + place, h);
          h = h * mask;
        }
        store_some(room_.h_blocks.at(v.h[0], at), h, room_.P - at.unit);
      }
      if (room_.two_states) store(v.c + place, state(1, room_.H));
    });
  }
  // Each row's state after its last step, to the caller's arrays: h lies where that step left it.
  void store_all() const {
    each_own_vector([&](const View& v, const Spot& at) {
      const Sweep& of = v.pairs.sweep;
      const std::size_t stop = std::clamp(std::size_t(of.lengths[at.row()]), begin_, end_);
      if (at.unit < room_.P)
        store_some(v.pairs.row_of(of.out[0], at.row(), room_.P) + at.unit, h_before(v, stop, at), room_.P - at.unit);
      if (room_.two_states)
        store_some(v.pairs.row_of(of.out[1], at.row(), room_.H) + at.unit,
                   load<T>(v.c + room_.in_panels(at.row(), at.unit)), room_.H - at.unit);
    });
  }

  FN V h_before(const View& v, std::size_t step, const Spot& at) const {
    return room_.dropping ? load<T>(v.whole_h + room_.in_panels(at.row(), at.unit))
                          : load_some<T>(room_.h_blocks.at(v.h[turn(step)], at), room_.P - at.unit);
  }

  // Moves the state of a vector of units on by f(s), s = {h, c} before and after; of a projection {m, c} after.
  template <class Cell, class F>
  FN void advance(const View& v, std::size_t step, const Spot& at, F f) {
    const Sweep& of = v.pairs.sweep;
    const std::size_t unit = at.unit, place = room_.in_panels(at.row(), unit);
    const bool projected = Cell::can_project && room_.projected;
    V s[Cell::states];
    s[0] = projected ? V(T(0)) : h_before(v, step, at);
    if constexpr (Cell::states > 1) s[1] = load<T>(v.c + place);
    V before[Cell::states];
    std::copy_n(s, Cell::states, before);
    f(s);
    if (has_zoneout(of.noise.zoneout))
      zone_out(stays_, of.noise, step, std::size_t(of.order[at.row()]), unit, projected, Cell::states, before, s);
    if constexpr (Cell::states > 1)
      if (of.states)
        store_some(as<T>(of.states) + v.pairs.number(step, at.row()) * room_.H + unit, s[1], room_.H - unit);
    const bool zero = zero_after(v, step, at.row());
    if (projected)
      store_some(room_.unit_blocks.at(v.m, at), s[0], room_.H - unit);
    else
      pass_on(v, step, at, s[0], zero);
    if constexpr (Cell::states > 1) store(v.c + place, zero ? V(T(0)) : s[1]);
  }

  // The packed rows of an operand at a step, and how they are packed.
  T* rows_of(const View& v, Operand which, std::size_t step) const {
    return which == Operand::h ? v.h[turn(step)] : which == Operand::reset_h ? v.reset_h : v.m;
  }
  const RowBlocks& blocks_of(Operand which) const { return which == Operand::m ? room_.unit_blocks : room_.h_blocks; }
  // Its rows from row0 on as products take them: their codes where `quantize_rows` makes them.
  T* operand(const View& v, Operand which, std::size_t step, std::size_t row0) const {
    const std::size_t width = blocks_of(which).K;
    if constexpr (std::is_same_v<T, float>)
      if (room_.quantized) return v.codes + (room_.alone ? std::size_t(team_.thread) : row0) * codes_size(width);
    return rows_of(v, which, step) + row0 * width;
  }
  // This thread's share of their codes, and a barrier, where the weights are codes.
  void quantize_rows(Operand which, std::size_t step) const {
    if constexpr (std::is_same_v<T, float>)
      if (room_.quantized) quantize_own(which, step);
  }

  // Panels of W_hr that a projection passes at once, and its room, in units of T.
  static std::size_t outputs_group(std::size_t B) { return B == 1 ? kTilePanels<Outputs::count> : 1; }
  static std::size_t outputs_room(std::size_t B) { return std::max(kRowBlock, outputs_group(B)) * N; }

  // h of a projection: W_hr·m for this thread's panels of W_hr, each value a chain over m from 0.
  // Its panels follow the cell's, from first_panel on.
  void project(std::size_t step, std::size_t first_panel, std::size_t panel_size, T* sums) {
    quantize_rows(Operand::m, step);
    const std::size_t group = outputs_group(room_.B);
    each_own(team_, room_.n, (room_.P + N - 1) / N, 1, [&](std::size_t i, std::size_t first, std::size_t last) {
      const View v = room_.view(i);
      room_.h_blocks.each(v.pairs.active(step), [&](std::size_t row0, std::size_t rows, std::size_t live) {
        for (std::size_t p = first; p < last; p += group) {
          const std::size_t count = std::min(group, last - p);
          std::fill_n(sums, live * count * N, T(0));
          accumulate_packed<1, Outputs>(live, count, sums, operand(v, Operand::m, step, row0), room_.H,
                                        v.packed + first_panel + p * panel_size, panel_size, room_.storage, rows);
          for (std::size_t r = 0; r < live; ++r)
            for (std::size_t j = 0; j < count; ++j)
              pass_on_output(v, step, {row0, rows, r, (p + j) * N}, load<T>(sums + (r * count + j) * N));
        }
      });
    });
  }

 private:
  // f(view, spot) for every vector of own hidden units, of all rows.
  template <class F>
  void each_own_vector(F f) const {
    each_own_panel([&](const View& v, std::size_t first, std::size_t last) {
      room_.h_blocks.each(room_.B, [&](std::size_t row0, std::size_t rows, std::size_t) {
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t unit = first * N; unit < std::min(room_.H, last * N); unit += N)
            f(v, Spot{row0, rows, r, unit});
      });
    });
  }

  void quantize_own(Operand which, std::size_t step) const {
    const RowBlocks& in = blocks_of(which);
    for (std::size_t i = 0; i < std::size_t(room_.n); ++i) {
      const View v = room_.view(i);
      const Share own(v.pairs.active(step), 1, room_.alone ? 0 : team_.thread, room_.alone ? 1 : team_.threads);
      in.each(own.end, [&](std::size_t row0, std::size_t rows, std::size_t live) {
        for (std::size_t r = own.begin - std::min(own.begin, row0); r < live; ++r)
          quantize(in.K, operand(v, which, step, row0 + r),
                   [&](std::size_t k) { return in.at(rows_of(v, which, step), {row0, rows, r, k}); });
      });
    }
    if (!room_.alone) team_.barrier();
  }

  // Whether a row's state is zeroed between a step and its next one.
  bool zero_after(const View& v, std::size_t step, std::size_t row) const {
    const Sweep& of = v.pairs.sweep;
    return of.reset && step + 1 < std::min(end_, std::size_t(of.lengths[row])) && v.pairs.reset(step + 1, row);
  }

  // A step's h, to y and to where the next step reads it.
  FN void pass_on(const View& v, std::size_t step, const Spot& at, V h, bool zero) const {
    store_some(v.pairs.at(v.pairs.sweep.y, step, at.row()) + at.unit, h, room_.P - at.unit);
    if (zero) h = V(T(0));
    if (room_.dropping) {
      const std::size_t place = room_.in_panels(at.row(), at.unit);
      store(v.whole_h + place, h);
      h = h * load<T>(v.mask + place);
    }
    store_some(room_.h_blocks.at(v.h[turn(step + 1)], at), h, room_.P - at.unit);
  }
  FN void pass_on_output(const View& v, std::size_t step, const Spot& at, V h) {
    const Sweep& of = v.pairs.sweep;
    if (of.noise.zoneout[0] > 0) {
      const V before = h_before(v, step, at);
      zone_out(stays_, of.noise, step, std::size_t(of.order[at.row()]), at.unit, 0, 1, &before, &h);
    }
    pass_on(v, step, at, h, zero_after(v, step, at.row()));
  }

  const SweepRoom<T>& room_;
  const Team& team_;
  const std::size_t grain_, begin_, end_;
  Stays<T> stays_;
};

}  // namespace fusedstep::ISA
