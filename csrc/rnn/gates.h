// How the rows of a cell's weight matrices reach its accumulators, and which of these are normalised.
#pragma once

namespace fusedstep::ISA {

// Gates first, first+1, … of a matrix, each H rows, feed these accumulators.
template <int first_gate, int... accumulator>
struct Gates {
  static constexpr int first = first_gate;
  static constexpr int count = sizeof...(accumulator);
  static constexpr int accumulators[count] = {accumulator...};
};

struct NoGates {
  static constexpr int first = 0, count = 0;
  static constexpr int accumulators[1] = {};
};

// Accumulators first … first+count-1, over all hidden units of a row, are normalised together.
struct Norm {
  int first, count;
};

}  // namespace fusedstep::ISA
