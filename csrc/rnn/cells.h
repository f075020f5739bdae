// The cells. The kernels, the bindings, the tests and the benchmarks iterate this list.
#pragma once

#include "core/list.h"
#include "rnn/gru.h"
#include "rnn/lstm.h"

namespace fusedstep::ISA {

using Cells = TemplateList<LSTM, PeepholeLSTM, CoupledLSTM, CoupledPeepholeLSTM, LayerNormLSTM, GRU, GRUResetBefore,
                           LayerNormGRU>;

}  // namespace fusedstep::ISA
