// The parts of the module `_cuda`.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedstep::python {

void bind_cuda_plan(pybind11::module_& module);
void bind_cuda_update(pybind11::module_& module);
void bind_cuda_rnn(pybind11::module_& module);

}  // namespace fusedstep::python
