// The update rules. The kernels, the bindings, the tests and the benchmarks iterate this list.
#pragma once

#include "core/list.h"
#include "optim/adagrad.h"
#include "optim/adam.h"
#include "optim/rmsprop.h"
#include "optim/touch.h"

namespace fusedstep::ISA {

using Rules = TemplateList<Adam, AMSGrad, RMSprop, RMSpropMomentum, RMSpropCentered, RMSpropCenteredMomentum, Adagrad,
                           Touch1, Touch2, Touch3>;

}  // namespace fusedstep::ISA
