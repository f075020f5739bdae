// A step over many tensors at once: the concatenated element space is split over threads, so that a thousand tiny
// tensors and one huge one both balance. Knows no rule, dtype or instruction set: those are in the pointers.
#pragma once

#include <cstddef>
#include <vector>

#include "core/table.h"

namespace fusedstep {

// One parameter tensor of n elements, what updates it, and which gradient norm its dtype takes.
struct Segment {
  Step step;
  SquareSums square_sums;
  const void* rule;  // as RuleEntry::prepare wrote it
  double sign;       // −1 where the objective is maximized
  std::size_t n;
  Tensor tensor;
};

// Updates every segment from sign·grad_scale·g; sets g to zero where asked.
void update_all(const std::vector<Segment>& segments, double grad_scale, bool zero);

struct GradNorm {
  double norm;               // over all segments, in double; of the gradients as they are
  std::ptrdiff_t nonfinite;  // first segment with a gradient that is not finite, or −1
};
GradNorm grad_norm(const std::vector<Segment>& segments);

}  // namespace fusedstep
