// The module fusedstep._cuda: what the package's Python calls for arrays in CUDA memory.
#include <pybind11/pybind11.h>

#include "cuda/runtime.h"
#include "python/cuda_bind.h"
#include "python/cuda_record.h"
#include "python/plan.h"

PYBIND11_MODULE(_cuda, module, pybind11::mod_gil_not_used()) {
  using namespace fusedstep;
  using namespace fusedstep::python;
  const py::module_ core = py::module_::import("fusedstep._core");
  const py::object step_info_type = core.attr("StepInfo");
  set_step_info_type(step_info_type.inc_ref().ptr());
  open_profiles_of_core = reinterpret_cast<const std::atomic<int>*>(core.attr("open_profiles").cast<std::uintptr_t>());
  module.def("check_driver", &cuda::check_driver);
  module.def("use_gpu", &cuda::use_gpu);
  module.def("is_captured",
             [](std::uintptr_t stream) { return cuda::is_captured(reinterpret_cast<cuda::Stream>(stream)); });
  bind_cuda_plan(module);
  bind_cuda_update(module);
  bind_cuda_rnn(module);
}
