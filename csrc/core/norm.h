// The global norm of the gradients, in double, its order fixed: a block of kNormBlock elements is summed in kNormLanes
// lanes, lane j taking the squares of elements j, j+32, … in order; the lanes are folded in halves. The sums of all
// tensors' blocks, one after the other, are summed in the same way.
//
//   norm = √(Σ (scale·g)²) / scale
#pragma once

#include <cfloat>

#include "core/fn.h"

namespace fusedstep {

inline constexpr int kNormLanes = 32;

// Squares of float64 gradients leave double's range where the gradients do not. A sum that shows it, at scale 1, is to
// be done again at this scale, a power of two; otherwise 1.
FN double norm_scale(double sum) { return !(sum <= DBL_MAX) ? 0x1p-600 : sum < 0x1p-900 ? 0x1p600 : 1; }

// What clipping multiplies the gradients by, as torch's clip_grad_norm_.
FN double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor < 1 ? factor : 1;
}

}  // namespace fusedstep
