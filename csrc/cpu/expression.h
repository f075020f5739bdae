// The machine that runs custom losses: a group of vectors at a time through all instructions (steps.h). Sums of rows
// and their expansion are loops of their own, over chunks that stay in L1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/loss.h"
#include "cpu/operand.h"
#include "cpu/simd.h"
#include "cpu/steps.h"
#include "cpu/stream.h"
#include "cpu/sums.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

template <class T>
void sum_rows(T* to, const T* from, std::size_t rows, std::size_t C) {
  for (std::size_t r = 0; r < rows; ++r) {
    LaneSum sum;
    sum.add(from + r * C, C);
    to[r] = T(sum.total());
  }
}
template <class T>
void expand_rows(T* to, const T* from, std::size_t rows, std::size_t C) {
  for (std::size_t r = 0; r < rows; ++r) std::fill_n(to + r * C, C, from[r]);
}

// The instructions as steps, and after each run of them, until a loop over rows or the end, an end of steps. Slots are
// numbered as ExpressionCall has them. With `sums`, whole groups are run: an output that is a sum of elements is added
// to it by a step, and is stored where it is read.
template <class T>
class Steps {
 public:
  static std::size_t bytes(int n_code) {
    const auto n = std::size_t(n_code);
    return ((2 * n + kMaxOutputs) * sizeof(Step<T>) + n + alignof(Step<T>) - 1) / alignof(Step<T>) * alignof(Step<T>);
  }

  // memory: bytes(call.n_code), aligned as a Step. sums: (call.n_outputs), or null.
  Steps(const ExpressionCall& call, int first_output, LaneSum* sums, char* memory)
      : call_(call),
        first_output_(first_output),
        sums_(sums),
        one_run_(std::none_of(call.code, call.code + call.n_code, [](const Instruction& in) { return loops(in.op); })),
        steps_(reinterpret_cast<Step<T>*>(memory)),
        held_(memory + (2 * std::size_t(call.n_code) + kMaxOutputs) * sizeof(Step<T>)) {
    for (int i = 0; i < call.n_code; ++i) {
      const Instruction& in = call.code[i];
      int held = 0;
      if (i > 0 && together(i - 1, i))
        for (int j = 0; j < arity(in.op); ++j) held |= (in.from[j] == call.code[i - 1].to) << j;
      held_[i] = char(runs<T>.of[int(in.op)][held][0] ? held : held & -held);  // of several, perhaps the first alone
    }
    Step<T>* step = steps_;
    for (int i = 0; i < call.n_code; ++i) {
      const Instruction& in = call.code[i];
      if (loops(in.op)) continue;
      *step = {runs<T>.of[int(in.op)][int(held_[i])][kept(i)], nullptr, {}, mask(in.to, false), {}};
      for (int j = 0; j < arity(in.op); ++j) step->mask[j] = mask(in.from[j], in.uniform[j]);
      ++step;
      if (accumulated(in.to))
        *step++ = {runs<T>.accumulate, reinterpret_cast<T*>(sums_ + (in.to - first_output_)), {}, 0, {}};
      if (i + 1 == call.n_code || !together(i, i + 1)) *step++ = {runs<T>.end, nullptr, {}, 0, {}};
    }
  }

  // Whether the instructions are one run of steps, so that a register is needed for one group at a time.
  bool one_run() const { return one_run_; }
  // Whether a step adds what is written to this slot to a sum.
  bool accumulated(int slot) const {
    if (!sums_ || slot < first_output_) return false;
    const ExpressionOutput& output = call_.outputs[slot - first_output_];
    return output.sums && !output.data && !output.rows;
  }

  // All instructions for one chunk of n elements in so many rows.
  void run(T* const* slot, std::size_t n, std::size_t rows) {
    Step<T>* step = steps_;
    for (int i = 0; i < call_.n_code; ++i) {
      const Instruction& in = call_.code[i];
      if (in.op == Op::sum) {
        sum_rows(slot[in.to], slot[in.from[0]], rows, call_.C);
      } else if (in.op == Op::expand) {
        expand_rows(slot[in.to], slot[in.from[0]], rows, call_.C);
      } else {
        Step<T>* const first = step;
        for (;; ++i) {
          const Instruction& own = call_.code[i];
          step->to = slot[own.to];
          for (int j = 0; j < arity(own.op); ++j) step->from[j] = slot[own.from[j]];
          if ((++step)->run == runs<T>.accumulate) ++step;
          if (step->run == runs<T>.end) break;
        }
        ++step;
        for (std::size_t at = 0, end = in.rows ? rows : n; at < end; at += kGroup<T>)
          start(first, at, std::make_integer_sequence<int, kVectors>{});
      }
    }
  }

 private:
  static bool loops(Op op) { return op == Op::sum || op == Op::expand; }
  std::size_t mask(int slot, bool number) const {
    if (slot < call_.n_inputs) return uniform(call_.inputs[slot]) ? 0 : ~std::size_t(0);
    return number || (one_run_ && (slot < first_output_ || accumulated(slot))) ? 0 : ~std::size_t(0);
  }
  // Whether instruction j, the one after i, is a step after its step.
  bool together(int i, int j) const {
    const Instruction &a = call_.code[i], &b = call_.code[j];
    return !loops(a.op) && !loops(b.op) && a.rows == b.rows;
  }
  // Whether another than the next step reads what instruction i computes, or it is an output.
  bool kept(int i) const {
    const int to = call_.code[i].to;
    if (to >= first_output_ && !accumulated(to)) return true;
    for (int j = i + 1; j < call_.n_code; ++j) {
      const Instruction& in = call_.code[j];
      for (int k = 0; k < arity(in.op); ++k)
        if (in.from[k] == to && !(j == i + 1 && held_[j] >> k & 1)) return true;
      if (in.to == to) return false;
    }
    return false;
  }

  const ExpressionCall& call_;
  const int first_output_;
  LaneSum* const sums_;
  const bool one_run_;
  Step<T>* const steps_;
  char* const held_;  // (n_code)
};

template <class T>
void evaluate(const ExpressionCall& call, std::size_t begin, std::size_t end) {
  const auto whole = [](std::size_t n) { return (n + kGroup<T> - 1) / kGroup<T> * kGroup<T>; };
  const std::size_t block_size = expression_block(call.by_row, call.C, sizeof(T));
  // Rows are chunks of their own. Otherwise a chunk ends a block, or is small where its inputs are copied or its
  // results wait in L1 to be streamed, and what is left of whole groups and terms of a sum is one more.
  const bool copied = std::any_of(call.inputs, call.inputs + call.n_inputs,
                                  [](const Operand& input) { return !uniform(input) && !flat(input); });
  const bool streamed = std::any_of(call.outputs, call.outputs + call.n_outputs,
                                    [](const ExpressionOutput& output) { return output.stream; });
  constexpr std::size_t small = kChunkBytes / sizeof(T), grain = std::max<std::size_t>(kGroup<T>, LaneSum::lanes);
  const std::size_t chunk = call.by_row || !(copied || streamed) ? block_size : small;
  const std::size_t room_of_chunk = whole(call.by_row || chunk == small ? chunk : grain),
                    room_of_rows = whole(call.by_row ? chunk / std::max<std::size_t>(call.C, 1) : 0);

  const int first_uniform = call.n_inputs, first_register = first_uniform + call.n_uniforms;
  const int first_output = first_register + call.n_registers, n_slots = first_output + call.n_outputs;
  // A register holds elements or rows. Inputs and outputs have room of their own for what is broadcast or ends a chunk
  // within a vector.
  // Slots are not a multiple of 4 KiB apart: a load would wait for the store before it that looks alike.
  const std::size_t room_of_slot = std::max(room_of_chunk, room_of_rows) + std::max<std::size_t>(kGroup<T>, 16);
  const std::size_t bytes = std::size_t(n_slots) * (sizeof(T*) + room_of_slot * sizeof(T)) + 64;
  char* const memory = static_cast<char*>(scratch(bytes + 2 * Steps<T>::bytes(call.n_code)));
  T** const slot = reinterpret_cast<T**>(memory);
  T* const room = reinterpret_cast<T*>(memory + (std::size_t(n_slots) * sizeof(T*) + 63) / 64 * 64);
  const auto own = [&](int i) { return room + std::size_t(i) * room_of_slot; };
  for (int i = 0; i < n_slots; ++i) slot[i] = own(i);
  for (int i = 0; i < call.n_uniforms; ++i) std::fill_n(slot[first_uniform + i], kGroup<T>, T(call.uniforms[i]));
  for (int i = 0; i < first_uniform; ++i)
    if (uniform(call.inputs[i])) elements_of(call.inputs[i], 0, room_of_slot, slot[i]);

  LaneSum sums[kMaxOutputs];
  Steps<T> whole_groups(call, first_output, sums, memory + bytes);
  Steps<T> others(call, first_output, nullptr, memory + bytes + Steps<T>::bytes(call.n_code));

  for (std::size_t block = begin; block < end; ++block) {
    std::fill_n(sums, call.n_outputs, LaneSum());
    const std::size_t last = std::min(call.n, (block + 1) * block_size);
    for (std::size_t first = block * block_size, n; first < last; first += n) {
      n = std::min(chunk, last - first);
      if (!call.by_row && n > grain) n -= n % grain;
      const std::size_t row = call.by_row ? first / call.C : 0, rows = call.by_row ? n / call.C : 0;
      for (int i = 0; i < first_uniform; ++i) {
        if (uniform(call.inputs[i])) continue;
        const T* const from = elements_of(call.inputs[i], first, n, own(i));
        if (from != own(i) && n % kGroup<T> != 0) std::memcpy(own(i), from, n * sizeof(T));
        slot[i] = n % kGroup<T> != 0 ? own(i) : const_cast<T*>(from);
      }
      for (int i = 0; i < call.n_outputs; ++i) {
        const ExpressionOutput& output = call.outputs[i];
        const std::size_t size = output.rows ? rows : n, at = (output.rows ? row : first) - output.first;
        const bool direct = output.data && !output.stream && size % kGroup<T> == 0;
        slot[first_output + i] = direct ? static_cast<T*>(output.data) + at : own(first_output + i);
      }
      Steps<T>& steps = n % kGroup<T> == 0 ? whole_groups : others;
      steps.run(slot, n, rows);
      for (int i = 0; i < call.n_outputs; ++i) {
        const ExpressionOutput& output = call.outputs[i];
        const std::size_t size = output.rows ? rows : n, at = (output.rows ? row : first) - output.first;
        const T* const from = slot[first_output + i];
        if (output.sums && !steps.accumulated(first_output + i)) sums[i].add(from, size);
        if (output.stream)
          stream_copy(static_cast<T*>(output.data) + at, from, size);
        else if (output.data && from == own(first_output + i))
          std::memcpy(static_cast<T*>(output.data) + at, from, size * sizeof(T));
      }
    }
    for (int i = 0; i < call.n_outputs; ++i)
      if (call.outputs[i].sums) call.outputs[i].sums[block] = sums[i].total();
  }
  if (streamed) end_of_stream();
}

}  // namespace fusedstep::ISA
