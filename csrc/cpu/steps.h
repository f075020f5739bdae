// The steps of custom losses: each does one instruction for a group of vectors and calls the next one, to which it
// leaves its results in registers. What only the next step reads is not stored, and the sum of a value is a step too.
#pragma once

#include <cstddef>
#include <utility>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/simd.h"
#include "cpu/sums.h"
#include "loss/l1.h"

namespace fusedstep::ISA {

template <Second second, class V>
FN V apply_second(V a, V c) {
  if constexpr (second == Second::add) return a + c;
  if constexpr (second == Second::subtract) return a - c;
  if constexpr (second == Second::subtract_from) return c - a;
  if constexpr (second == Second::multiply) return a * c;
  if constexpr (second == Second::divide) return a / c;
  if constexpr (second == Second::divide_into) return c / a;
}
template <Op op, class V>
FN V apply(V a, [[maybe_unused]] V b, [[maybe_unused]] V c, [[maybe_unused]] V d) {
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
  if constexpr (op == Op::decay) return ISA::decay(a);
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
  if constexpr (is_pair(op)) return apply_second<second_of(op)>(apply<first_of(op)>(a, b, c, d), c);
  if constexpr (op == Op::where_less) return select(a < b, c, d);
  if constexpr (op == Op::where_less_equal) return select(a <= b, c, d);
}

// Vectors of a group: enough to hide a step's latency and the jump to the next, and as many as are passed in registers
// and leave some to work with.
inline constexpr int kVectors = kRegisters == 32 ? 8 : 4;
template <class T>
inline constexpr std::size_t kGroup = kVectors * std::size_t(Vec<T>::size);  // elements
template <class T, int>
using VecAt = Vec<T>;

template <class T>
struct Step;
// `at`: the group's first element. The call of the next step is the last thing that a step does.
template <class T, class = std::make_integer_sequence<int, kVectors>>
struct Signature;
template <class T, int... i>
struct Signature<T, std::integer_sequence<int, i...>> {
  using Run = void (*)(const Step<T>* step, std::size_t at, VecAt<T, i>... last);
};
template <class T>
using Run = typename Signature<T>::Run;

template <class T>
struct Step {
  Run<T> run;
  T* to;  // of `accumulate`, a LaneSum
  const T* from[4];
  std::size_t mask_to, mask[4];  // of `at`: 0 for what has room for one group alone, as numbers, which fill it
};

// held: of the operands, bit by bit, which are the results of the step before.
template <Op op, class T, int held, bool kept, int... i>
void run_step(const Step<T>* step, std::size_t at, VecAt<T, i>... last) {
  using V = Vec<T>;
  // Read before anything is stored: the compiler cannot tell that a result does not lie in a step.
  const auto place = [&](int j) __attribute__((always_inline)) { return step->from[j] + (at & step->mask[j]); };
  const T* const from[] = {place(0), place(1), place(2), place(3)};
  [[maybe_unused]] T* const to = step->to + (at & step->mask_to);
  const auto next = (++step)->run;
  const auto operand = [&](auto j, int vector, V own) __attribute__((always_inline)) {
    if constexpr (j >= arity(op) || (held >> j & 1))
      return own;
    else
      return load<T>(from[j] + vector * V::size);
  };
  const auto result = [&](int vector, V own) __attribute__((always_inline)) {
    return apply<op>(
        operand(std::integral_constant<int, 0>{}, vector, own), operand(std::integral_constant<int, 1>{}, vector, own),
        operand(std::integral_constant<int, 2>{}, vector, own), operand(std::integral_constant<int, 3>{}, vector, own));
  };
  ((last = result(i, last)), ...);
  if constexpr (kept) (store(to + i * V::size, last), ...);
  return next(step, at, last...);
}
// Adds the results of the step before to a sum, and leaves them to the next.
template <class T, int... i>
void accumulate(const Step<T>* step, std::size_t at, VecAt<T, i>... last) {
  LaneSum& sum = *reinterpret_cast<LaneSum*>(step->to);
  const std::size_t lane =
      kGroup<T> % LaneSum::lanes == 0 ? 0 : at;  // a constant: the lanes are loaded and stored once
  (sum.add_vector(lane + i * Vec<T>::size, last), ...);
  ++step;
  return step->run(step, at, last...);
}
template <class T, int... i>
void end_of_steps(const Step<T>*, std::size_t, VecAt<T, i>...) {}

// By op, by what is held, and by whether the result is stored. Held are one operand or the first two, where these are
// the same.
template <class T>
struct Runs {
  Run<T> of[kOps][16][2] = {};
  Run<T> accumulate, end;

  constexpr Runs() { fill(std::make_integer_sequence<int, kVectors>{}, std::make_integer_sequence<int, kOps>{}); }

 private:
  template <int... i, int... op>
  constexpr void fill(std::integer_sequence<int, i...>, std::integer_sequence<int, op...>) {
    (fill_op<Op(op), i...>(), ...);
    accumulate = ISA::accumulate<T, i...>;
    end = end_of_steps<T, i...>;
  }
  template <Op op, int... i>
  constexpr void fill_op() {
    if constexpr (op != Op::sum && op != Op::expand && exists(op)) {
      fill_one<op, 0, i...>(), fill_one<op, 1, i...>();
      if constexpr (arity(op) >= 2) fill_one<op, 2, i...>(), fill_one<op, 3, i...>();
      if constexpr (arity(op) >= 3) fill_one<op, 4, i...>();
      if constexpr (arity(op) >= 4) fill_one<op, 8, i...>();
    }
  }
  template <Op op, int held, int... i>
  constexpr void fill_one() {
    of[int(op)][held][0] = run_step<op, T, held, false, i...>;
    of[int(op)][held][1] = run_step<op, T, held, true, i...>;
  }
};
template <class T>
inline constexpr Runs<T> runs;

// Calls the first of some steps for a group.
template <class T, int... i>
FN void start(const Step<T>* first, std::size_t at, std::integer_sequence<int, i...>) {
  first->run(first, at, VecAt<T, i>()...);
}

}  // namespace fusedstep::ISA
