#include "python/plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <sstream>
#include <utility>

namespace fusedstep::python {
namespace {

PyTypeObject* step_info_type = nullptr;  // lives as long as the process

double number(PyObject* object, const char* name) {
  const double value = PyBool_Check(object) ? -1 : PyFloat_AsDouble(object);
  if (value == -1 && (PyBool_Check(object) || PyErr_Occurred())) {
    PyErr_Clear();
    type_error({name}, "expected a number, got " + repr(object));
  }
  return value;
}

bool truth(PyObject* object) {
  const int value = PyObject_IsTrue(object);
  if (value < 0) throw py::error_already_set();
  return value;
}

bool before(const Extent& a, const Extent& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; }

}  // namespace

std::vector<std::string> words(const char* names) {
  std::istringstream stream(names);
  return {std::istream_iterator<std::string>(stream), {}};
}

void set_step_info_type(PyObject* type) { step_info_type = reinterpret_cast<PyTypeObject*>(type); }

py::object step_info(PyObject* norm, PyObject* applied, PyObject* first_nonfinite) {
  auto info = py::reinterpret_steal<py::object>(PyStructSequence_New(step_info_type));
  if (!info) throw py::error_already_set();
  PyStructSequence_SetItem(info.ptr(), 0, norm);
  PyStructSequence_SetItem(info.ptr(), 1, applied);
  PyStructSequence_SetItem(info.ptr(), 2, first_nonfinite);
  return info;
}

StepOptions::StepOptions(PyObject* const* args)
    : grad_scale(number(args[2], "grad_scale")),
      max_norm(args[1] == Py_None ? 0 : number(args[1], "max_norm")),
      check_finite(truth(args[3])),
      zero_grads(truth(args[4])) {
  if (!(grad_scale > 0) || std::isinf(grad_scale))
    throw py::value_error("grad_scale must be positive and finite, got " + repr(args[2]));
  if (args[1] != Py_None && !(max_norm > 0)) throw py::value_error("max_norm must be > 0, got " + repr(args[1]));
}

Given::Given(const py::object& keys, bool single) : single_(single) {
  if (!keys.is_none())
    for (const py::handle key : keys) keys_.push_back(py::reinterpret_borrow<py::object>(key));
}

py::tuple Given::in_order(PyObject* grads, std::size_t count) const {
  if (!keys_.empty()) return by_name(grads);
  const bool sequence = PyList_Check(grads) || PyTuple_Check(grads);
  if (single_ && !sequence) return py::make_tuple(py::handle(grads));
  if (!sequence)
    type_error({"grads"},
               std::string("expected a list or tuple with an array per parameter, got ") + Py_TYPE(grads)->tp_name);
  py::tuple values = py::reinterpret_steal<py::tuple>(PySequence_Tuple(grads));
  if (values.size() != count)
    value_error({"grads"}, "expected " + std::to_string(count) + " arrays, got " + std::to_string(values.size()));
  return values;
}

py::tuple Given::by_name(PyObject* grads) const {
  if (!PyDict_Check(grads))
    type_error({"grads"}, std::string("expected a dict with the names of params, got ") + Py_TYPE(grads)->tp_name);
  const auto dict = py::reinterpret_borrow<py::dict>(grads);
  py::tuple values(keys_.size());
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    PyObject* const value = PyDict_GetItemWithError(grads, keys_[i].ptr());
    if (!value) value_error({"grads"}, "expected the names of params, got none for " + repr(keys_[i].ptr()));
    PyTuple_SET_ITEM(values.ptr(), Py_ssize_t(i), Py_NewRef(value));
  }
  if (dict.size() != keys_.size())
    for (const auto& item : dict)
      if (std::none_of(keys_.begin(), keys_.end(), [&](const py::object& key) { return key.equal(item.first); }))
        value_error({"grads"}, "expected the names of params, got also " + repr(item.first.ptr()));
  return values;
}

void Apart::settle(bool zero, const Given& given) {
  if (!sorted_) std::sort(occupied_.begin(), occupied_.end(), before);
  sorted_ = true;
  std::vector<std::pair<Extent, std::size_t>> gradients;
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    if (!gradients_[i] || !bytes_[i]) continue;
    const Extent own = extent_of(gradients_[i], bytes_[i]);
    const auto next = std::lower_bound(occupied_.begin(), occupied_.end(), own, before);
    if ((next != occupied_.end() && own.overlaps(*next)) || (next != occupied_.begin() && own.overlaps(next[-1])))
      value_error(given.gradient(i), "expected memory of its own, got an overlap with a parameter or a state");
    gradients.push_back({own, i});
  }
  if (zero) {
    std::sort(gradients.begin(), gradients.end(),
              [](const auto& a, const auto& b) { return before(a.first, b.first); });
    for (std::size_t i = 1; i < gradients.size(); ++i)
      if (gradients[i].first.overlaps(gradients[i - 1].first))
        value_error(given.gradient(gradients[i].second),
                    "with zero_grads expected memory of its own, got an overlap with " +
                        given.gradient(gradients[i - 1].second).text());
  }
  settled_ = true;
  zero_ = zero;
}

}  // namespace fusedstep::python
