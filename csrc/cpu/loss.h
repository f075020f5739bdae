// Losses on all threads. Knows no loss, dtype or instruction set: those are in the pointers.
#pragma once

#include <cstddef>

#include "core/loss.h"

namespace fusedstep {

// Runs all of a call. `call.sums` is not used; returns the sum of the losses, 0 where it is not wanted.
// `element`: bytes of one. `call.stream` and those of the outputs are not used either.
double run_elements(const LossEntry& entry, const void* loss, std::size_t element, ElementsCall call, bool sum);
double run_rows(RowsLoss loss, std::size_t element, RowsCall call, bool sum);
// The outputs' `sums`, where not null, are one double each.
void run_expression(const LossTable& table, std::size_t element, ExpressionCall call);

// Σ over an operand that is broadcast to n elements.
double sum_of(const LossTable& table, const Operand& operand, std::size_t n);

// What the rows that count weigh: Σ of sample weight · weight of the class, by a fixed tree.
struct RowWeights {
  double sum;
  std::ptrdiff_t bad;  // first row whose class is neither in [0, C) nor ignore_index; −1 for none
};
template <class T>
RowWeights weigh_rows(const RowsCall& call);

}  // namespace fusedstep
