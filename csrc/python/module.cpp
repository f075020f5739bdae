// The module fusedstep._core: what the package's Python calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>

#include "core/table.h"
#include "cpu/caches.h"
#include "cpu/threads.h"
#include "python/arrays.h"
#include "python/bind.h"

namespace fusedstep::python {
namespace {

py::dict build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  py::dict info;
  info["version"] = FUSEDSTEP_VERSION;
  info["compiler"] = compiler;
  info["isas"] = py::tuple(py::cast(built_isas()));
  info["isa"] = table().isa;
  info["threads"] = num_threads();
  info["cuda"] = bool(FUSEDSTEP_HAVE_CUDA);
  return info;
}

void set_threads(const py::object& threads) {
  const long count = PyIndex_Check(threads.ptr()) ? PyLong_AsLong(py::int_(threads).ptr()) : -1;
  if (count < 1 || count > kMaxThreads)
    throw py::value_error("threads must be an integer from 1 to " + std::to_string(kMaxThreads) + ", got " +
                          py::repr(threads).cast<std::string>());
  set_num_threads(int(count));
}

// A function of core/math.h over an array, elementwise.
py::array math(const std::string& name, const py::object& x) {
  Keep keep;
  const Array from = array(x.ptr(), {"x"}, keep);
  check_contiguous(from, {"x"});
  const Table& of = table(from.dtype);
  for (int i = 0; i < of.n_math; ++i) {
    if (of.math[i].name != name) continue;
    py::array to(numpy_dtype(from.dtype), std::vector<Py_ssize_t>(from.shape, from.shape + from.nd));
    const py::gil_scoped_release release;
    parallel(1, [&](const Team&) { of.math[i].apply(from.data, to.mutable_data(), from.size()); });
    return to;
  }
  throw py::key_error("no function is called " + name);
}

}  // namespace
}  // namespace fusedstep::python

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  using namespace fusedstep;
  using namespace fusedstep::python;
  if (const std::string error = choose_table(std::getenv("FUSEDSTEP_ISA")); !error.empty())
    throw py::import_error(error);
  if (default_num_threads() == 0)
    throw py::import_error(std::string("FUSEDSTEP_NUM_THREADS=") + std::getenv("FUSEDSTEP_NUM_THREADS") +
                           ": expected an integer from 1 to " + std::to_string(kMaxThreads));
  initialize();
  module.def("build_info", &build_info);
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_threads);
  module.def("stream_from", &stream_from);
  module.def("zeros", [](const std::vector<Py_ssize_t>& shape, const py::object& dtype) {
    return zeros(shape, dtype_of(dtype));
  });
  module.def("empty", [](const std::vector<Py_ssize_t>& shape, const py::object& dtype) {
    return empty(shape, dtype_of(dtype));
  });
  module.def("math", &math);
  bind_plan(module);
  bind_cell(module);
  bind_layer(module);
  bind_dropout(module);
  bind_stream(module);
  bind_loss(module);
  bind_expression(module);
  bind_ceilings(module);
  bind_record(module);
}
