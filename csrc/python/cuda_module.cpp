// The module fusedstep._cuda: what the package's Python calls for arrays in CUDA memory.
#include <pybind11/pybind11.h>

#include "cuda/runtime.h"
#include "python/cuda_bind.h"
#include "python/plan.h"

PYBIND11_MODULE(_cuda, module, pybind11::mod_gil_not_used()) {
  using namespace fusedstep;
  using namespace fusedstep::python;
  const py::object step_info_type = py::module_::import("fusedstep._core").attr("StepInfo");
  set_step_info_type(step_info_type.inc_ref().ptr());
  module.def("check_driver", &cuda::check_driver);
  module.def("use_gpu", &cuda::use_gpu);
  bind_cuda_plan(module);
  bind_cuda_rnn(module);
}
