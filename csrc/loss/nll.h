// Negative log-likelihood of a row x of log-probabilities and a class y, torch's nll_loss.
//   l = −w_y·x_y        dl/dx_c = −w_y·[c = y]
#pragma once

#include "core/fn.h"

namespace fusedstep::ISA {

struct NLL {
  static FN double loss(double x_y, double w_y) { return -(w_y * x_y); }
  static FN double slope(double w_y) { return -w_y; }
};

}  // namespace fusedstep::ISA
