// The machine that runs custom losses: every instruction is a loop over a chunk that stays in L1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/operand.h"
#include "cpu/simd.h"
#include "cpu/sums.h"
#include "cpu/threads.h"
#include "loss/l1.h"

namespace fusedstep::ISA {

template <Op op, class V>
FN V apply(V a, [[maybe_unused]] V b, [[maybe_unused]] V c) {
  const V zero(typename V::Scalar(0)), one(typename V::Scalar(1));
  const auto truth = [&](auto mask) __attribute__((always_inline)) { return select(mask, one, zero); };
  if constexpr (op == Op::copy) return a;
  if constexpr (op == Op::negative) return -a;
  if constexpr (op == Op::absolute) return abs(a);
  if constexpr (op == Op::sign) return sign(a);
  if constexpr (op == Op::sqrt) return sqrt(a);
  if constexpr (op == Op::exp) return exp(a);
  if constexpr (op == Op::log) return log(a);
  if constexpr (op == Op::log1p) return log1p(a);
  if constexpr (op == Op::tanh) return tanh(a);
  if constexpr (op == Op::sigmoid) return sigmoid(a);
  if constexpr (op == Op::softplus) return softplus(a);
  if constexpr (op == Op::logical_not) return truth(a == zero);
  if constexpr (op == Op::add) return a + b;
  if constexpr (op == Op::subtract) return a - b;
  if constexpr (op == Op::multiply) return a * b;
  if constexpr (op == Op::divide) return a / b;
  if constexpr (op == Op::minimum) return min(a, b);
  if constexpr (op == Op::maximum) return max(a, b);
  if constexpr (op == Op::less) return truth(a < b);
  if constexpr (op == Op::less_equal) return truth(a <= b);
  if constexpr (op == Op::equal) return truth(a == b);
  if constexpr (op == Op::not_equal) return truth(a != b);
  if constexpr (op == Op::logical_and) return truth((a != zero) & (b != zero));
  if constexpr (op == Op::logical_or) return truth((a != zero) | (b != zero));
  if constexpr (op == Op::where) return select(a != zero, b, c);
  if constexpr (op == Op::multiply_add) return fma(a, b, c);
  if constexpr (op == Op::multiply_subtract) return fma(a, b, -c);
  if constexpr (op == Op::subtract_multiply) return fma(-a, b, c);
}

// n elements, up to the next multiple of a vector.
template <Op op, class T, int uniform>
void loop(T* to, const T* a, const T* b, const T* c, std::size_t n) {
  using V = Vec<T>;
  constexpr int operands = arity(op);
  const V first = uniform & 1 ? load<T>(a) : V(), second = uniform & 2 ? load<T>(b) : V(),
          third = uniform & 4 ? load<T>(c) : V();
  for (std::size_t at = 0; at < n; at += V::size)
    store(to + at, apply<op>(uniform & 1 ? first : load<T>(a + at),
                             operands < 2  ? V()
                             : uniform & 2 ? second
                                           : load<T>(b + at),
                             operands < 3  ? V()
                             : uniform & 4 ? third
                                           : load<T>(c + at)));
}

template <class T>
using Loop = void (*)(T* to, const T* a, const T* b, const T* c, std::size_t n);

// By op and by which operands are uniform, the first one's bit lowest; never all of them, but for a copy.
template <class T>
struct Loops {
  Loop<T> of[kOps][8] = {};

  constexpr Loops() { fill(std::make_integer_sequence<int, kOps>{}); }

 private:
  template <int... op>
  constexpr void fill(std::integer_sequence<int, op...>) {
    (fill_one<Op(op)>(), ...);
  }
  template <Op op>
  constexpr void fill_one() {
    if constexpr (op != Op::sum && op != Op::expand) {
      Loop<T>* const row = of[int(op)];
      row[0] = loop<op, T, 0>;
      if constexpr (op == Op::copy) row[1] = loop<op, T, 1>;
      if constexpr (arity(op) >= 2) row[1] = loop<op, T, 1>, row[2] = loop<op, T, 2>;
      if constexpr (arity(op) == 3)
        row[3] = loop<op, T, 3>, row[4] = loop<op, T, 4>, row[5] = loop<op, T, 5>, row[6] = loop<op, T, 6>;
    }
  }
};
template <class T>
inline constexpr Loops<T> loops;

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

template <class T>
void evaluate(const ExpressionCall& call, std::size_t begin, std::size_t end) {
  constexpr std::size_t kLine = 64 / sizeof(T);  // elements of the widest vector
  const auto whole = [](std::size_t n) { return (n + kLine - 1) / kLine * kLine; };
  const std::size_t block_size = expression_block(call.by_row, call.C, sizeof(T));
  const std::size_t chunk = call.by_row ? block_size : kChunkBytes / sizeof(T);
  const std::size_t room_of_chunk = whole(chunk),
                    room_of_rows = whole(call.by_row ? chunk / std::max<std::size_t>(call.C, 1) : 0);

  const int first_uniform = call.n_inputs, first_register = first_uniform + call.n_uniforms;
  const int first_output = first_register + call.n_registers, n_slots = first_output + call.n_outputs;
  // A register holds elements or rows. Inputs and outputs have room of their own for what is broadcast or ends a chunk
  // within a vector.
  // Slots are not a multiple of 4 KiB apart: a load would wait for the store before it that looks alike.
  const std::size_t room_of_slot = std::max(room_of_chunk, room_of_rows) + kLine;
  const std::size_t bytes = std::size_t(n_slots) * (sizeof(T*) + room_of_slot * sizeof(T)) + 64;
  char* const memory = static_cast<char*>(scratch(bytes));
  T** const slot = reinterpret_cast<T**>(memory);
  T* const room = reinterpret_cast<T*>(memory + (std::size_t(n_slots) * sizeof(T*) + 63) / 64 * 64);
  const auto own = [&](int i) { return room + std::size_t(i) * room_of_slot; };
  for (int i = 0; i < n_slots; ++i) slot[i] = own(i);
  for (int i = 0; i < call.n_uniforms; ++i) std::fill_n(slot[first_uniform + i], kLine, T(call.uniforms[i]));
  for (int i = 0; i < first_uniform; ++i)
    if (uniform(call.inputs[i])) elements_of(call.inputs[i], 0, room_of_slot, slot[i]);

  for (std::size_t block = begin; block < end; ++block) {
    Sum sums[kMaxOutputs];
    const std::size_t last = std::min(call.n, (block + 1) * block_size);
    for (std::size_t first = block * block_size, n; first < last; first += n) {
      n = std::min(chunk, last - first);
      const std::size_t row = call.by_row ? first / call.C : 0, rows = call.by_row ? n / call.C : 0;
      for (int i = 0; i < first_uniform; ++i) {
        if (uniform(call.inputs[i])) continue;
        const T* const from = elements_of(call.inputs[i], first, n, own(i));
        if (from != own(i) && n % kLine != 0) std::memcpy(own(i), from, n * sizeof(T));
        slot[i] = n % kLine != 0 ? own(i) : const_cast<T*>(from);
      }
      for (int i = 0; i < call.n_outputs; ++i) {
        const ExpressionOutput& output = call.outputs[i];
        const std::size_t size = output.rows ? rows : n, at = (output.rows ? row : first) - output.first;
        slot[first_output + i] =
            output.data && size % kLine == 0 ? static_cast<T*>(output.data) + at : own(first_output + i);
      }
      for (int i = 0; i < call.n_code; ++i) {
        const Instruction& in = call.code[i];
        T* const to = slot[in.to];
        const T* const a = slot[in.from[0]];
        if (in.op == Op::sum)
          sum_rows(to, a, rows, call.C);
        else if (in.op == Op::expand)
          expand_rows(to, a, rows, call.C);
        else
          loops<T>.of[int(in.op)][in.uniform[0] + 2 * in.uniform[1] + 4 * in.uniform[2]](
              to, a, slot[in.from[1]], slot[in.from[2]], in.rows ? rows : n);
      }
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
