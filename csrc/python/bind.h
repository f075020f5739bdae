// The parts of the module `_core`.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedstep::python {

void bind_plan(pybind11::module_& module);
void bind_cell(pybind11::module_& module);
void bind_layer(pybind11::module_& module);
void bind_dropout(pybind11::module_& module);
void bind_stream(pybind11::module_& module);
void bind_loss(pybind11::module_& module);
void bind_expression(pybind11::module_& module);
void bind_ceilings(pybind11::module_& module);
void bind_record(pybind11::module_& module);

}  // namespace fusedstep::python
