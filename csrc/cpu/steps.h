// The steps of custom losses: each does one instruction for a group of four vectors and calls the next one, to which it
// leaves its results in registers. What only the next step reads is not stored.
#pragma once

#include <cstddef>
#include <utility>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/simd.h"
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
  if constexpr (op == Op::decay) return exp(-abs(a));
  if constexpr (op == Op::log1p_of_positive) return log1p_of_positive(a);
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
  if constexpr (op == Op::softplus_of) return at_least(a, typename V::Scalar(0)) + log1p_of_unit(b);
  if constexpr (op == Op::sigmoid_of) return select(a < zero, b, one) / (one + b);
  if constexpr (op == Op::where) return select(a != zero, b, c);
  if constexpr (op == Op::multiply_add) return fma(a, b, c);
  if constexpr (op == Op::multiply_subtract) return fma(a, b, -c);
  if constexpr (op == Op::subtract_multiply) return fma(-a, b, c);
}

inline constexpr int kVectors = 4;  // of a group: enough to hide a step's latency and the jump to the next
template <class T>
inline constexpr std::size_t kGroup = kVectors * std::size_t(Vec<T>::size);  // elements

template <class T>
struct Step;
// `at`: the group's first element. The call of the next step is the last thing that a step does.
template <class T>
using Run = void (*)(const Step<T>* step, std::size_t at, Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d);

template <class T>
struct Step {
  Run<T> run;
  T* to;
  const T* from[3];
  std::size_t mask[3];  // of `at`: 0 where the operand is a number, which fills one group
};

// held: of the operands, bit by bit, which are the results of the step before.
template <Op op, class T, int held, bool kept>
void run_step(const Step<T>* step, std::size_t at, Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  using V = Vec<T>;
  const auto operand = [&](auto i, int vector, V last) __attribute__((always_inline)) {
    if constexpr (i >= arity(op) || (held >> i & 1))
      return last;
    else
      return load<T>(step->from[i] + (at & step->mask[i]) + vector * V::size);
  };
  const auto result = [&](int vector, V last) __attribute__((always_inline)) {
    return apply<op>(operand(std::integral_constant<int, 0>{}, vector, last),
                     operand(std::integral_constant<int, 1>{}, vector, last),
                     operand(std::integral_constant<int, 2>{}, vector, last));
  };
  a = result(0, a), b = result(1, b), c = result(2, c), d = result(3, d);
  if constexpr (kept) {
    T* const to = step->to + at;
    store(to, a), store(to + V::size, b), store(to + 2 * V::size, c), store(to + 3 * V::size, d);
  }
  ++step;
  return step->run(step, at, a, b, c, d);
}
template <class T>
void end_of_steps(const Step<T>*, std::size_t, Vec<T>, Vec<T>, Vec<T>, Vec<T>) {}

// By op, by what is held, and by whether the result is stored. Of three operands one at most is held.
template <class T>
struct Runs {
  Run<T> of[kOps][8][2] = {};

  constexpr Runs() { fill(std::make_integer_sequence<int, kOps>{}); }

 private:
  template <int... op>
  constexpr void fill(std::integer_sequence<int, op...>) {
    (fill_op<Op(op)>(), ...);
  }
  template <Op op>
  constexpr void fill_op() {
    if constexpr (op != Op::sum && op != Op::expand) {
      fill_one<op, 0>(), fill_one<op, 1>();
      if constexpr (arity(op) >= 2) fill_one<op, 2>();
      if constexpr (arity(op) == 2) fill_one<op, 3>();
      if constexpr (arity(op) == 3) fill_one<op, 4>();
    }
  }
  template <Op op, int held>
  constexpr void fill_one() {
    of[int(op)][held][0] = run_step<op, T, held, false>;
    of[int(op)][held][1] = run_step<op, T, held, true>;
  }
};
template <class T>
inline constexpr Runs<T> runs;

}  // namespace fusedstep::ISA
