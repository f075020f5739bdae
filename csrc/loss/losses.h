// The elementwise losses: adding one is a header and its name here. Those of rows are cross_entropy.h and nll.h.
#pragma once

#include "core/list.h"
#include "loss/bce.h"
#include "loss/focal.h"
#include "loss/hinge.h"
#include "loss/huber.h"
#include "loss/kl_div.h"
#include "loss/l1.h"
#include "loss/mse.h"

namespace fusedstep::ISA {

using Losses = TemplateList<MSE, L1, SmoothL1, Huber, BCEWithLogits, Focal, KLDiv, Hinge>;

}  // namespace fusedstep::ISA
