// What the optimizer plans of the CPU and of a GPU share: what a step is asked, how parameters and gradients are given
// and called, and that gradients lie apart from what a step writes.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>
#include <string>
#include <vector>

#include "python/arguments.h"

namespace fusedstep::python {

// The words of a list like RuleEntry::hyper.
std::vector<std::string> words(const char* names);

// A rule's place in its table.
template <class Rules>
int find_rule(const Rules& rules, const std::string& name) {
  for (std::size_t i = 0; i < rules.size(); ++i)
    if (rules[i].name == name) return int(i);
  throw py::key_error("no update rule is called " + name);
}

template <class Rule>
std::vector<double> check_hyper(const Rule& rule, std::vector<double> hyper) {
  if (hyper.size() != words(rule.hyper).size())
    throw py::value_error(std::string(rule.name) + ": expected the hyperparameters " + rule.hyper);
  return hyper;
}

// The arrays (p, g, *states) of one tensor's step, for callers that keep their own, checked: take(object, name) gives
// an array's fields, state_dtype(dtype) what its states have.
template <class Rule, class Take, class StateDtype>
auto update_arrays(const Rule& rule, const std::vector<double>& hyper, const std::vector<std::string>& names,
                   const std::vector<py::object>& objects, Take take, StateDtype state_dtype) {
  check_hyper(rule, hyper);
  if (int(objects.size()) != 2 + rule.states || names.size() != objects.size())
    throw py::value_error(std::string(rule.name) + ": expected p, g and " + std::to_string(rule.states) + " states");
  std::vector<decltype(take(nullptr, Name{}))> arrays;
  const auto name = [&](std::size_t i) { return Name{names[i].c_str()}; };
  for (std::size_t i = 0; i < objects.size(); ++i) {
    arrays.push_back(take(objects[i].ptr(), name(i)));
    const auto dtype = arrays[0].dtype;
    check_alike(arrays[i], name(i), arrays[0], i < 2 ? dtype : state_dtype(dtype), i != 1);
    for (std::size_t j = 0; j < i; ++j) check_no_overlap(arrays[i], name(i), arrays[j], name(j));
  }
  return arrays;
}

void set_step_info_type(PyObject* type);
// Steals its references.
py::object step_info(PyObject* norm, PyObject* applied, PyObject* first_nonfinite);

// What a step was asked: (grads, max_norm, grad_scale, check_finite, zero_grads).
struct StepOptions {
  double grad_scale;
  double max_norm;  // 0: no clipping
  bool check_finite, zero_grads;

  explicit StepOptions(PyObject* const* args);
  bool clips() const { return max_norm > 0; }
  bool needs_norm() const { return clips() || check_finite; }
};

// One step of a plan at a time. Another thread's step may hold the lock while it waits for the GIL: never wait with the
// GIL held.
inline std::unique_lock<std::mutex> exclusive(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  if (!lock) {
    const py::gil_scoped_release release;
    lock.lock();
  }
  return lock;
}

// How the caller gave the parameters, and therefore gives the gradients: one alone, in order, or by name.
class Given {
 public:
  Given(const py::object& keys, bool single);
  Name gradient(std::size_t i) const { return name("grads", i); }
  Name parameter(std::size_t i) const { return name("params", i); }
  // A new reference to the name or number of the i-th.
  PyObject* key(std::size_t i) const { return keys_.empty() ? PyLong_FromSize_t(i) : Py_NewRef(keys_[i].ptr()); }
  // One gradient for each of `count` parameters, as a tuple of our own: the caller's list may change under us.
  py::tuple in_order(PyObject* grads, std::size_t count) const;

 private:
  Name name(const char* base, std::size_t i) const {
    if (single_) return {base};
    return {base, Py_ssize_t(i), keys_.empty() ? nullptr : keys_[i].ptr()};
  }
  py::tuple by_name(PyObject* grads) const;

  const bool single_;
  Keep keys_;
};

// That no gradient shares memory with a parameter, a state, or (where gradients are zeroed) another one: it would be
// read after it was overwritten. Looked at anew only where a gradient is elsewhere than it last was.
class Apart {
 public:
  // A parameter, whose gradient has as many bytes; then what else a step writes for it.
  void parameter(const void* data, std::size_t bytes) {
    bytes_.push_back(bytes);
    gradients_.push_back(nullptr);
    writes(data, bytes);
  }
  void writes(const void* data, std::size_t bytes) {
    occupied_.push_back(extent_of(data, bytes));
    settled_ = sorted_ = false;
  }

  // At a step, for every parameter: where its gradient is, or null.
  void gradient(std::size_t i, const char* data) {
    settled_ = settled_ && gradients_[i] == data;
    gradients_[i] = data;
  }
  bool settled(bool zero) const { return settled_ && zero == zero_; }
  void settle(bool zero, const Given& given);

 private:
  static Extent extent_of(const void* data, std::size_t bytes) {
    return {static_cast<const char*>(data), static_cast<const char*>(data) + bytes};
  }

  std::vector<Extent> occupied_;
  std::vector<std::size_t> bytes_;      // of each parameter
  std::vector<const char*> gradients_;  // likewise
  bool sorted_ = false, settled_ = false, zero_ = false;
};

}  // namespace fusedstep::python
