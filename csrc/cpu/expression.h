// The machine that runs custom losses: chunks that stay in L1, each through all instructions, a group of vectors at a
// time (steps.h); sums of rows and their expansion are loops of their own over a chunk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/loss.h"
#include "cpu/operand.h"
#include "cpu/simd.h"
#include "cpu/steps.h"
#include "cpu/sums.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

template <class T>
void sum_rows(T* to, const T* from, std::size_t rows, std::size_t C) {
  for (std::size_t r = 0; r < rows; ++r) {
    Sum sum;
    sum.add(from + r * C, C);
    to[r] = T(sum.total());
  }
}
template <class T>
void expand_rows(T* to, const T* from, std::size_t rows, std::size_t C) {
  for (std::size_t r = 0; r < rows; ++r) std::fill_n(to + r * C, C, from[r]);
}

// Where the next chunk's results go: their lines are fetched while a chunk is worked on, which takes 0.85 of the time.
// (What is read next is there without: the hardware sees it coming.)
template <class T>
class Ahead {
 public:
  void add(T* to) { to_[n_++] = to; }
  FN void fetch(std::size_t at) const {
    for (int i = 0; i < n_; ++i)
      for (std::size_t j = 0; j < kGroup<T>; j += 64 / sizeof(T)) __builtin_prefetch(to_[i] + at + j, 1);
  }

 private:
  T* to_[kMaxOutputs];
  int n_ = 0;
};

// The instructions as steps, and after each run of them, until a loop over rows or the end, an end of steps. Slots are
// numbered as ExpressionCall has them.
template <class T>
class Steps {
 public:
  static std::size_t bytes(int n_code) { return std::size_t(n_code) * (2 * sizeof(Step<T>) + 1) + alignof(Step<T>); }

  // memory: bytes(call.n_code), aligned as a Step.
  Steps(const ExpressionCall& call, int first_output, char* memory)
      : call_(call), steps_(reinterpret_cast<Step<T>*>(memory)), held_(memory + 2 * call.n_code * sizeof(Step<T>)) {
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
      if (in.op == Op::sum || in.op == Op::expand) continue;
      *step = {runs<T>.of[int(in.op)][int(held_[i])][kept(i, first_output)], nullptr, {}, {}};
      for (int j = 0; j < 3; ++j) step->mask[j] = in.uniform[j] ? 0 : ~std::size_t(0);
      ++step;
      if (i + 1 == call.n_code || !together(i, i + 1)) *step++ = {end_of_steps<T>, nullptr, {}, {}};
    }
  }

  // All instructions for one chunk of n elements in so many rows.
  void run(T* const* slot, std::size_t n, std::size_t rows, const Ahead<T>& ahead) {
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
          if ((++step)->run == end_of_steps<T>) break;
        }
        ++step;
        const bool whole = first == steps_ && !in.rows;
        for (std::size_t at = 0, end = in.rows ? rows : n; at < end; at += kGroup<T>) {
          if (whole) ahead.fetch(at);
          first->run(first, at, Vec<T>(), Vec<T>(), Vec<T>(), Vec<T>());
        }
      }
    }
  }

 private:
  // Whether instruction j, the one after i, is a step after its step.
  bool together(int i, int j) const {
    const Instruction &a = call_.code[i], &b = call_.code[j];
    const auto loops = [](Op op) { return op == Op::sum || op == Op::expand; };
    return !loops(a.op) && !loops(b.op) && a.rows == b.rows;
  }
  // Whether another than the next step reads what instruction i computes, or it is an output.
  bool kept(int i, int first_output) const {
    const int to = call_.code[i].to;
    if (to >= first_output) return true;
    for (int j = i + 1; j < call_.n_code; ++j) {
      const Instruction& in = call_.code[j];
      for (int k = 0; k < arity(in.op); ++k)
        if (in.from[k] == to && !(j == i + 1 && held_[j] >> k & 1)) return true;
      if (in.to == to) return false;
    }
    return false;
  }

  const ExpressionCall& call_;
  Step<T>* const steps_;
  char* const held_;  // (n_code)
};

template <class T>
void evaluate(const ExpressionCall& call, std::size_t begin, std::size_t end) {
  const auto whole = [](std::size_t n) { return (n + kGroup<T> - 1) / kGroup<T> * kGroup<T>; };
  const std::size_t block_size = expression_block(call.by_row, call.C, sizeof(T));
  const std::size_t chunk = call.by_row ? block_size : kChunkBytes / sizeof(T);
  const std::size_t room_of_chunk = whole(chunk),
                    room_of_rows = whole(call.by_row ? chunk / std::max<std::size_t>(call.C, 1) : 0);

  const int first_uniform = call.n_inputs, first_register = first_uniform + call.n_uniforms;
  const int first_output = first_register + call.n_registers, n_slots = first_output + call.n_outputs;
  // A register holds elements or rows. Inputs and outputs have room of their own for what is broadcast or ends a chunk
  // within a vector.
  // Slots are not a multiple of 4 KiB apart: a load would wait for the store before it that looks alike.
  const std::size_t room_of_slot = std::max(room_of_chunk, room_of_rows) + std::max<std::size_t>(kGroup<T>, 16);
  const std::size_t bytes = std::size_t(n_slots) * (sizeof(T*) + room_of_slot * sizeof(T)) + 64;
  char* const memory = static_cast<char*>(scratch(bytes + Steps<T>::bytes(call.n_code)));
  T** const slot = reinterpret_cast<T**>(memory);
  T* const room = reinterpret_cast<T*>(memory + (std::size_t(n_slots) * sizeof(T*) + 63) / 64 * 64);
  const auto own = [&](int i) { return room + std::size_t(i) * room_of_slot; };
  for (int i = 0; i < n_slots; ++i) slot[i] = own(i);
  for (int i = 0; i < call.n_uniforms; ++i) std::fill_n(slot[first_uniform + i], kGroup<T>, T(call.uniforms[i]));
  for (int i = 0; i < first_uniform; ++i)
    if (uniform(call.inputs[i])) elements_of(call.inputs[i], 0, room_of_slot, slot[i]);

  Steps<T> steps(call, first_output, memory + bytes);

  for (std::size_t block = begin; block < end; ++block) {
    Sum sums[kMaxOutputs];
    const std::size_t last = std::min(call.n, (block + 1) * block_size);
    for (std::size_t first = block * block_size, n; first < last; first += n) {
      n = std::min(chunk, last - first);
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
        slot[first_output + i] =
            output.data && size % kGroup<T> == 0 ? static_cast<T*>(output.data) + at : own(first_output + i);
      }
      Ahead<T> ahead;
      for (int i = 0; i < call.n_outputs; ++i)
        if (T* const to = slot[first_output + i];
            to != own(first_output + i) && first + n < last && !call.outputs[i].rows)
          ahead.add(to + n);
      steps.run(slot, n, rows, ahead);
      for (int i = 0; i < call.n_outputs; ++i) {
        const ExpressionOutput& output = call.outputs[i];
        const std::size_t size = output.rows ? rows : n, at = (output.rows ? row : first) - output.first;
        const T* const from = slot[first_output + i];
        if (output.sums) sums[i].add(from, size);
        if (output.data && from == own(first_output + i))
          std::memcpy(static_cast<T*>(output.data) + at, from, size * sizeof(T));
      }
    }
    for (int i = 0; i < call.n_outputs; ++i)
      if (call.outputs[i].sums) call.outputs[i].sums[block] = sums[i].total();
  }
}

}  // namespace fusedstep::ISA
