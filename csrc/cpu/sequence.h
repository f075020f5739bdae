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
#include "cpu/int8.h"
#include "cpu/noise.h"
#include "cpu/norm.h"
#include "cpu/pairs.h"
#include "cpu/rnn.h"

namespace fusedstep::ISA {

template <class Cell>
void sweep(const Sweep* sweeps, int n, std::size_t begin, std::size_t end) {
  using T = typename Cell::Scalar;
  using V = Vec<T>;
  using Input = typename Cell::InputGates;
  using State = typename Cell::StateGates;
  using Late = typename Cell::LateGates;
  constexpr int A = Cell::accumulators;
  constexpr std::size_t N = V::size, grain = owned_panels<Cell>(N);
  constexpr bool has_late = Late::count > 0, has_norms = Cell::layer_norm, has_output = has_norms && Cell::states > 1;
  const std::size_t B = sweeps[0].B, I = sweeps[0].I, H = sweeps[0].H, P = sweeps[0].P;
  const Storage storage = sweeps[0].weights.storage;
  const Layout<Cell> layout{I, H, P, storage};
  const bool projected = Cell::can_project && P < H;
  const std::size_t panels = layout.panels();
  const RowBlocks blocks{B, P}, m_blocks{B, H};
  const std::size_t group = B == 1 ? kGroup<Cell> : 1, outputs_group = B == 1 ? kTilePanels<Outputs::count> : 1;

  const double weights = double(n) * double(H) * double(P) * (State::count + Late::count + projected);
  const int threads = threads_for_steps(end - begin, B, weights);
  // A row alone each thread quantises for itself: that takes less than a barrier.
  const bool quantized = storage == Storage::int8, alone = B == 1;
  const std::size_t row_codes = quantized ? codes_size(H) : 0, code_rows = alone ? std::size_t(threads) : B;

  // Of each sweep, shared by all threads: h before a step and after it, as W_hh sees it, and r·h; then, panel by panel,
  // the second state, and with recurrent dropout h itself and its mask; then m, which a projection reads, and the codes
  // of h, of r·h or of m; and what the norms sum.
  const bool dropping = sweeps[0].noise.recurrent > 0;
  const std::size_t rows_size = B * P, panels_size = panels * B * N, state_panels = 1 + 2 * std::size_t(dropping),
                    m_at = (2 + has_late) * rows_size + state_panels * panels_size,
                    codes_at = m_at + (projected ? B * H : 0), shared_size = codes_at + code_rows * row_codes;
  const std::size_t sums_size = RowSums{B, H, nullptr}.size(kNorms<Cell>);
  double* const all_sums =
      as<double>(scratch(std::size_t(n) * (sums_size * sizeof(double) + shared_size * sizeof(T)), 1));
  T* const shared = as<T>(static_cast<void*>(all_sums + std::size_t(n) * sums_size));
  struct View {
    std::size_t index;
    Pairs<T> pairs;
    const T* packed;
    T *h[2], *reset_h, *c, *whole_h, *mask, *m, *codes;
    RowSums sums;
  };
  const auto view = [&](std::size_t i) {
    T* const from = shared + i * shared_size;
    T* const c = from + (2 + has_late) * rows_size;
    return View{i,
                {sweeps[i]},
                as<T>(sweeps[i].weights.packed),
                {from, from + rows_size},
                from + 2 * rows_size,
                c,
                c + panels_size,
                c + 2 * panels_size,
                from + m_at,
                from + codes_at,
                {B, H, all_sums + i * sums_size}};
  };

  parallel(threads, [&](const Team& team) {
    Stays<T> stays;
    std::size_t own_panels = 0;
    const auto each_own_panel = [&](auto f) { each_own(team, n, panels, grain, f); };
    each_own_panel([&](std::size_t, std::size_t first, std::size_t last) { own_panels += last - first; });
    const std::size_t chunk_steps = std::clamp<std::size_t>(kChunkRows / B, 1, std::max<std::size_t>(1, end - begin)),
                      chunk_rows = chunk_steps * B;
    const std::size_t gates_size = own_panels * chunk_rows * A * N, group_size = group * A * N,
                      outputs_size = projected ? std::max(kRowBlock, outputs_group) * N : 0,
                      x_size = std::min(kRowBlock, chunk_rows) * row_size(storage, I),
                      statistics_size = RowValues<T>{B, nullptr}.size(kNorms<Cell>);
    T* const gates = as<T>(
        scratch((gates_size + group_size + outputs_size + x_size + std::size_t(n) * statistics_size) * sizeof(T)));
    T* const group_room = gates + gates_size;
    T* const outputs = group_room + group_size;
    T* const x_room = outputs + outputs_size;
    const auto statistics = [&](const View& v) { return RowValues<T>{B, x_room + x_size + v.index * statistics_size}; };

    // The state before step `begin`.
    each_own_panel([&](std::size_t i, std::size_t first, std::size_t last) {
      const View v = view(i);
      blocks.each(B, [&](std::size_t row0, std::size_t rows, std::size_t) {
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t unit = first * N; unit < std::min(H, last * N); unit += N) {
            const std::size_t row = row0 + r;
            const bool zero = std::size_t(sweeps[i].lengths[row]) > begin && v.pairs.reset(begin, row);
            const auto state = [&](int j, std::size_t width) {
              const T* const from = v.pairs.row_of(sweeps[i].state[j], row, width);
              return zero ? V(T(0)) : load_some<T>(from + unit, width - unit);
            };
            const std::size_t at = (unit / N * B + row) * N;
            if (unit < P) {
              V h = state(0, P);
              if (dropping) {
                const V mask = recurrent_mask<T>(sweeps[i].noise, std::size_t(sweeps[i].order[row]), unit);
                store(v.mask + at, mask);
                store(v.whole_h + at, h);
                h = h * mask;
              }
              store_some(blocks.at(v.h[0], row0, rows, r, unit), h, P - unit);
            }
            if constexpr (Cell::states > 1) store(v.c + at, state(1, H));
          }
      });
    });
    team.barrier();

    for (std::size_t step = begin; step < end; ++step) {
      const std::size_t now = (step - begin) & 1;
      // Gates' initial values of a chunk of steps: biases and the product with W_ih.
      if ((step - begin) % chunk_steps == 0) {
        T* to = gates;
        each_own_panel([&](std::size_t i, std::size_t first, std::size_t last) {
          const View v = view(i);
          const std::size_t from = v.pairs.number(step, 0),
                            all = v.pairs.number(std::min(end, step + chunk_steps), 0) - from,
                            parts = (all + kRowBlock - 1) / kRowBlock;
          for (std::size_t part = 0; part < parts; ++part) {
            const std::size_t row = all * part / parts, rows = all * (part + 1) / parts - row;
            v.pairs.pack_x(from + row, from + row + rows, storage, x_room);
            // One row alone passes several panels at once.
            const std::size_t together = chunk_rows == 1 ? group : 1;
            for (std::size_t p = first; p < last; p += together) {
              const std::size_t count = std::min(together, last - p);
              const T* const panel = v.packed + p * layout.size();
              T* const partial = to + ((p - first) * chunk_rows + row) * A * N;
              for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t j = 0; j < count; ++j)
                  std::copy_n(panel + j * layout.size(), A * N, partial + (r * count + j) * A * N);
              accumulate_packed<A, Input>(rows, count, partial, x_room, I, panel + Layout<Cell>::kStart, layout.size(),
                                          storage, rows);
            }
          }
          to += (last - first) * chunk_rows * A * N;
        });
      }

      // f(view, first panel, last panel, the first one's gates in this step, chunk_rows apart from the next one's)
      const auto each_own_gates = [&](auto f) {
        T* of = gates;
        each_own_panel([&](std::size_t i, std::size_t first, std::size_t last) {
          const View v = view(i);
          const std::size_t from = v.pairs.number(step, 0) - v.pairs.number(step - (step - begin) % chunk_steps, 0);
          f(v, first, last, of + from * A * N);
          of += (last - first) * chunk_rows * A * N;
        });
      };
      // f(view, first panel, panels, their gates, first row, rows, active rows) for what this thread owns of the step.
      const auto each_block = [&](auto f) {
        each_own_gates([&](const View& v, std::size_t first, std::size_t last, T* of) {
          blocks.each(v.pairs.active(step), [&](std::size_t row0, std::size_t rows, std::size_t live) {
            each_group(first, last, group, now, [&](std::size_t p, std::size_t count) {
              T* const partial = of + ((p - first) * chunk_rows + row0) * A * N;
              if (B == 1 && chunk_rows > 1) {  // one row passes several panels at once: their gates side by side
                for (std::size_t j = 0; j < count; ++j)
                  std::copy_n(partial + j * chunk_rows * A * N, A * N, group_room + j * A * N);
                f(v, p, count, group_room, row0, rows, live);
                if constexpr (has_late || has_norms)
                  for (std::size_t j = 0; j < count; ++j)
                    std::copy_n(group_room + j * A * N, A * N, partial + j * chunk_rows * A * N);
              } else {
                f(v, p, count, partial, row0, rows, live);
              }
            });
          });
        });
      };
      // f(panel, row in the block, unit, lanes, accumulators)
      const auto each_vector = [&](std::size_t first, std::size_t count, auto* partial, std::size_t live, auto f)
                                   __attribute__((always_inline)) {
        for (std::size_t r = 0; r < live; ++r)
          for (std::size_t p = first; p < first + count; ++p, partial += A * N) f(p, r, p * N, H - p * N, partial);
      };
      const auto zero_after = [&](const View& v, std::size_t row) {
        const Sweep& of = v.pairs.sweep;
        return of.reset && step + 1 < std::min(end, std::size_t(of.lengths[row])) && v.pairs.reset(step + 1, row);
      };
      const auto h_before = [&](const View& v, std::size_t row0, std::size_t rows, std::size_t r, std::size_t unit)
                                __attribute__((always_inline)) {
        return dropping ? load<T>(v.whole_h + (unit / N * B + row0 + r) * N)
                        : load_some<T>(blocks.at(v.h[now], row0, rows, r, unit), P - unit);
      };
      // h, from a unit on, to y and to where the next step reads it.
      const auto pass_on = [&](const View& v, std::size_t row0, std::size_t rows, std::size_t r, std::size_t unit, V h,
                               bool zero) __attribute__((always_inline)) {
        store_some(v.pairs.at(v.pairs.sweep.y, step, row0 + r) + unit, h, P - unit);
        if (zero) h = V(T(0));
        if (dropping) {
          const std::size_t place = (unit / N * B + row0 + r) * N;
          store(v.whole_h + place, h);
          h = h * load<T>(v.mask + place);
        }
        store_some(blocks.at(v.h[!now], row0, rows, r, unit), h, P - unit);
      };
      // Moves the state of a vector of units on by f(s), s = {h, c} before and after; of a projection {m, c} after.
      const auto advance = [&](const View& v, std::size_t p, std::size_t row0, std::size_t rows, std::size_t r, auto f)
                               __attribute__((always_inline)) {
        const Sweep& of = v.pairs.sweep;
        const std::size_t row = row0 + r, unit = p * N, place = (p * B + row) * N;
        V s[Cell::states];
        s[0] = projected ? V(T(0)) : h_before(v, row0, rows, r, unit);
        if constexpr (Cell::states > 1) s[1] = load<T>(v.c + place);
        V before[Cell::states];
        std::copy_n(s, Cell::states, before);
        f(s);
        if (has_zoneout(of.noise.zoneout))
          zone_out(stays, of.noise, step, std::size_t(of.order[row]), unit, projected, Cell::states, before, s);
        if constexpr (Cell::states > 1)
          if (of.states) store_some(as<T>(of.states) + v.pairs.number(step, row) * H + unit, s[1], H - unit);
        const bool zero = zero_after(v, row);
        if (projected)
          store_some(m_blocks.at(v.m, row0, rows, r, unit), s[0], H - unit);
        else
          pass_on(v, row0, rows, r, unit, s[0], zero);
        if constexpr (Cell::states > 1) store(v.c + place, zero ? V(T(0)) : s[1]);
      };
      const auto finish = [&](const View& v, std::size_t first, std::size_t count, T* partial, std::size_t row0,
                              std::size_t rows, std::size_t live) {
        each_vector(first, count, partial, live,
                    [&](std::size_t p, std::size_t r, std::size_t unit, std::size_t, T* at)
                        __attribute__((always_inline)) {
          V a[A], w[Cell::peepholes + 1], normalized[A];
          const T* const panel = v.packed + p * layout.size();
          for (int j = 0; j < A; ++j) a[j] = load<T>(at + j * N);
          for (int j = 0; j < Cell::peepholes; ++j) w[j] = load<T>(panel + (A + j) * N);
          if constexpr (has_norms) normalize<Cell>(statistics(v), row0 + r, panel, a, normalized);
          if constexpr (has_output) {  // o and c′ wait for its norm, where accumulators were
            V s[] = {V(T(0)), load<T>(v.c + (p * B + row0 + r) * N)};
            Cell::forward(a, s, w);
            store(at, a[Cell::O]);
            store(at + N, s[1]);
          } else {
            advance(v, p, row0, rows, r, [&](V* s) __attribute__((always_inline)) { Cell::forward(a, s, w); });
          }
          if (v.pairs.sweep.saved)
            store_saved<Cell>(v.pairs.sweep, v.pairs.number(step, row0 + r), unit, a, normalized);
        });
      };

      // Rows of h, r·h or m as their product takes them, from row0 on: their codes where `quantize_all` makes them.
      const auto operand = [&](const View& v, T* from, std::size_t row0, std::size_t width) {
        if constexpr (std::is_same_v<T, float>)
          if (quantized) return v.codes + (alone ? std::size_t(team.thread) : row0) * codes_size(width);
        return from + row0 * width;
      };
      const auto quantize_all = [&](const RowBlocks& in, auto rows_of) {
        if constexpr (std::is_same_v<T, float>) {
          if (!quantized) return;
          for (std::size_t i = 0; i < std::size_t(n); ++i) {
            const View v = view(i);
            const Share own(v.pairs.active(step), 1, alone ? 0 : team.thread, alone ? 1 : team.threads);
            in.each(own.end, [&](std::size_t row0, std::size_t rows, std::size_t live) {
              for (std::size_t r = own.begin - std::min(own.begin, row0); r < live; ++r)
                quantize(in.K, operand(v, nullptr, row0 + r, in.K),
                         [&](std::size_t k) { return in.at(rows_of(v), row0, rows, r, k); });
            });
          }
          if (!alone) team.barrier();
        }
      };

      quantize_all(blocks, [&](const View& v) { return v.h[now]; });
      each_block([&](const View& v, std::size_t first, std::size_t count, T* partial, std::size_t row0,
                     std::size_t rows, std::size_t live) {
        const T* const panel = v.packed + first * layout.size();
        accumulate_packed<A, State>(live, count, partial, operand(v, v.h[now], row0, P), P, panel + layout.state(),
                                    layout.size(), storage, rows);
        if constexpr (has_late)
          each_vector(first, count, partial, live,
                      [&](std::size_t, std::size_t r, std::size_t unit, std::size_t lanes, T* at)
                          __attribute__((always_inline)) {
            V a[A];
            for (int j = 0; j < A; ++j) a[j] = load<T>(at + j * N);
            const V h = load_some<T>(blocks.at(v.h[now], row0, rows, r, unit), lanes);
            store_some(blocks.at(v.reset_h, row0, rows, r, unit), Cell::reset(a, h), lanes);
            for (int j = 0; j < A; ++j) store(at + j * N, a[j]);
          });
        else if constexpr (!has_norms)
          finish(v, first, count, partial, row0, rows, live);
      });
      if constexpr (has_norms) {
        // f(view, row, first panel, its gates) for own blocks of units
        const auto each_norm_block = [&](auto f) {
          each_own_gates([&](const View& v, std::size_t first, std::size_t last, T* of) {
            for (std::size_t row = 0; row < v.pairs.active(step); ++row)
              for (std::size_t p = first; p < last; p += grain)
                f(v, row, p, of + ((p - first) * chunk_rows + row) * A * N);
          });
        };
        // Each thread's copy of the statistics of the step's rows; one thread puts them on the tape.
        const auto combine = [&](int from, int to) {
          team.barrier();
          each_own_panel([&](std::size_t i, std::size_t first, std::size_t) {
            const View v = view(i);
            const std::size_t rows = v.pairs.active(step);
            row_statistics<Cell>(v.sums, rows, from, to, statistics(v));
            if (first == 0 && v.pairs.sweep.statistics)
              store_statistics<Cell>(v.pairs.sweep, v.pairs.number(step, 0), rows, from, to, statistics(v));
          });
        };
        constexpr int of_gates = kGateNorms<Cell>, all = kNorms<Cell>;
        each_norm_block([&](const View& v, std::size_t row, std::size_t p, const T* at) {
          norm_moments<Cell, 0, of_gates>(v.sums, row, p * N, [&](int j, std::size_t lane) {
            return at + (lane / N * chunk_rows * A + std::size_t(j)) * N + lane % N;
          });
        });
        combine(0, of_gates);
        each_block(finish);
        if constexpr (has_output) {
          each_norm_block([&](const View& v, std::size_t row, std::size_t p, const T* at) {
            norm_moments<Cell, of_gates, all>(v.sums, row, p * N, [&](int, std::size_t lane) {
              return at + (lane / N * chunk_rows * A + 1) * N + lane % N;
            });
          });
          combine(of_gates, all);
          each_block([&](const View& v, std::size_t first, std::size_t count, const T* partial, std::size_t row0,
                         std::size_t rows, std::size_t live) {
            each_vector(first, count, partial, live,
                        [&](std::size_t p, std::size_t r, std::size_t, std::size_t, const T* at)
                            __attribute__((always_inline)) {
              advance(v, p, row0, rows, r, [&](V* s) __attribute__((always_inline)) {
                s[1] = load<T>(at + N);
                s[0] =
                    normalized_output<Cell>(statistics(v), row0 + r, v.packed + p * layout.size(), load<T>(at), s[1]);
              });
            });
          });
        }
      }
      if constexpr (has_late) {
        team.barrier();
        quantize_all(blocks, [&](const View& v) { return v.reset_h; });
        each_block([&](const View& v, std::size_t first, std::size_t count, T* partial, std::size_t row0,
                       std::size_t rows, std::size_t live) {
          const T* const panel = v.packed + first * layout.size();
          accumulate_packed<A, Late>(live, count, partial, operand(v, v.reset_h, row0, P), P, panel + layout.late(),
                                     layout.size(), storage, rows);
          finish(v, first, count, partial, row0, rows, live);
        });
      }
      team.barrier();
      if (!projected) continue;
      quantize_all(m_blocks, [&](const View& v) { return v.m; });
      each_own(team, n, layout.projection_panels(), 1, [&](std::size_t i, std::size_t first, std::size_t last) {
        const View v = view(i);
        blocks.each(v.pairs.active(step), [&](std::size_t row0, std::size_t rows, std::size_t live) {
          for (std::size_t p = first; p < last; p += outputs_group) {
            const std::size_t count = std::min(outputs_group, last - p);
            std::fill_n(outputs, live * count * N, T(0));
            accumulate_packed<1, Outputs>(live, count, outputs, operand(v, v.m, row0, H), H,
                                          v.packed + layout.projection() + p * layout.projection_size(),
                                          layout.projection_size(), storage, rows);
            for (std::size_t r = 0; r < live; ++r)
              for (std::size_t j = 0; j < count; ++j) {
                const std::size_t row = row0 + r, unit = (p + j) * N;
                const Noise& noise = v.pairs.sweep.noise;
                V h = load<T>(outputs + (r * count + j) * N);
                if (noise.zoneout[0] > 0) {
                  const V before = h_before(v, row0, rows, r, unit);
                  zone_out(stays, noise, step, std::size_t(v.pairs.sweep.order[row]), unit, 0, 1, &before, &h);
                }
                pass_on(v, row0, rows, r, unit, h, zero_after(v, row));
              }
          }
        });
      });
      team.barrier();
    }

    // Each row's state after its last step: h lies where that step left it.
    each_own_panel([&](std::size_t i, std::size_t first, std::size_t last) {
      const View v = view(i);
      blocks.each(B, [&](std::size_t row0, std::size_t rows, std::size_t) {
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t unit = first * N; unit < std::min(H, last * N); unit += N) {
            const std::size_t row = row0 + r;
            const std::size_t stop = std::clamp(std::size_t(sweeps[i].lengths[row]), begin, end);
            const std::size_t at = (unit / N * B + row) * N;
            if (unit < P) {
              const V h = dropping ? load<T>(v.whole_h + at)
                                   : load_some<T>(blocks.at(v.h[(stop - begin) & 1], row0, rows, r, unit), P - unit);
              store_some(v.pairs.row_of(sweeps[i].out[0], row, P) + unit, h, P - unit);
            }
            if constexpr (Cell::states > 1)
              store_some(v.pairs.row_of(sweeps[i].out[1], row, H) + unit, load<T>(v.c + at), H - unit);
          }
      });
    });
  });
}

}  // namespace fusedstep::ISA
