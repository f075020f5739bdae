// An optimizer's parameters, states, step counts and hyperparameters, checked once; and its step.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <mutex>
#include <sstream>

#include "core/norm.h"
#include "core/table.h"
#include "cpu/multi_tensor.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/fastcall.h"

namespace fusedstep::python {
namespace {

constexpr std::size_t kReleaseGil = 16384;  // elements: about 4 µs

PyTypeObject* step_info_type = nullptr;  // lives as long as the process

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

// Steals its references.
py::object step_info(PyObject* norm, bool applied, PyObject* first_nonfinite) {
  auto info = py::reinterpret_steal<py::object>(PyStructSequence_New(step_info_type));
  if (!info) throw py::error_already_set();
  PyStructSequence_SetItem(info.ptr(), 0, norm);
  PyStructSequence_SetItem(info.ptr(), 1, Py_NewRef(applied ? Py_True : Py_False));
  PyStructSequence_SetItem(info.ptr(), 2, first_nonfinite);
  return info;
}

// A rule's place in the tables.
int find_rule(const std::string& name) {
  for (int i = 0; i < table().n_rules; ++i)
    if (table().rules[i].name == name) return i;
  throw py::key_error("no update rule is called " + name);
}

std::vector<double> check_hyper(const RuleEntry& rule, std::vector<double> hyper) {
  if (hyper.size() != words(rule.hyper).size())
    throw py::value_error(std::string(rule.name) + ": expected the hyperparameters " + rule.hyper);
  return hyper;
}

std::string text(PyObject* object) { return py::repr(object).cast<std::string>(); }

double number(PyObject* object, const char* name) {
  const double value = PyBool_Check(object) ? -1 : PyFloat_AsDouble(object);
  if (value == -1 && (PyBool_Check(object) || PyErr_Occurred())) {
    PyErr_Clear();
    type_error({name}, "expected a number, got " + text(object));
  }
  return value;
}

bool truth(PyObject* object) {
  const int value = PyObject_IsTrue(object);
  if (value < 0) throw py::error_already_set();
  return value;
}

struct Group {
  int rule;
  std::vector<double> hyper;
  bool maximize;

  // The rule for the step count t. Most parameters of a group share theirs, so that a step prepares it once.
  struct Prepared {
    double t;
    Dtype dtype;
    alignas(double) unsigned char rule[kRuleBytes];
  };
  std::vector<std::unique_ptr<Prepared>> prepared;

  const void* rule_for(double t, Dtype dtype) {
    if (prepared.empty() || prepared.back()->t != t || prepared.back()->dtype != dtype) {
      prepared.push_back(std::make_unique<Prepared>(Prepared{t, dtype, {}}));
      table(dtype).rules[rule].prepare(hyper.data(), t, prepared.back()->rule);
    }
    return prepared.back()->rule;
  }
};

struct Parameter {
  py::object array;
  std::vector<py::object> state_arrays;
  Array fields;
  Segment segment;  // without what changes from step to step
  std::size_t group;
  double steps = 0;
};

class Plan {
 public:
  Plan(const py::object& keys, bool single) : single_(single) {
    if (!keys.is_none())
      for (const py::handle key : keys) keys_.push_back(py::reinterpret_borrow<py::object>(key));
    applied_ = step_info(Py_NewRef(Py_None), true, Py_NewRef(Py_None));
  }

  void add_group(const std::string& rule_name, const std::vector<double>& hyper, bool maximize,
                 const py::sequence& params, const py::sequence& states) {
    const int number = find_rule(rule_name);
    const RuleEntry& rule = table().rules[number];
    std::vector<Parameter> added;
    for (std::size_t i = 0; i < params.size(); ++i) {
      Parameter parameter{.array = params[i], .state_arrays = {}, .fields = {}, .segment = {}, .group = groups_.size()};
      const Name name{"params", Py_ssize_t(parameters_.size() + i)};
      Keep none;
      parameter.fields = array(parameter.array.ptr(), name, none);
      check_contiguous(parameter.fields, name);
      const Table& kernels = table(parameter.fields.dtype);
      parameter.segment = {.step = kernels.rules[number].step,
                           .square_sums = kernels.square_sums,
                           .rule = nullptr,
                           .sign = 1,
                           .n = parameter.fields.size(),
                           .tensor = {parameter.fields.data, nullptr, {}}};
      const py::sequence own = states[i];
      if (int(own.size()) != rule.states)
        value_error({"states"}, "expected " + std::to_string(rule.states) + " arrays");
      for (int j = 0; j < rule.states; ++j) {
        parameter.state_arrays.push_back(own[std::size_t(j)]);
        const Name state_name{"states", j};
        const Array state = array(parameter.state_arrays.back().ptr(), state_name, none);
        check_dtype(state, state_name, parameter.fields.dtype);
        check_same_shape(state, state_name, parameter.fields);
        check_contiguous(state, state_name);
        check_writeable(state, state_name);
        parameter.segment.tensor.state[j] = state.data;
      }
      added.push_back(std::move(parameter));
    }
    groups_.push_back({.rule = number, .hyper = check_hyper(rule, hyper), .maximize = maximize, .prepared = {}});
    for (Parameter& parameter : added) parameters_.push_back(std::move(parameter));
    occupied_.clear();
    checked_.clear();
  }

  void set_hyper(std::size_t group, const std::vector<double>& hyper, bool maximize) {
    const std::unique_lock<std::mutex> lock = exclusive();
    Group& target = groups_.at(group);
    target.hyper = check_hyper(table().rules[target.rule], hyper);
    target.maximize = maximize;
  }

  std::vector<double> steps() const {
    std::vector<double> steps;
    for (const Parameter& parameter : parameters_) steps.push_back(parameter.steps);
    return steps;
  }
  void set_steps(const std::vector<double>& steps) {
    if (steps.size() != parameters_.size()) value_error({"steps"}, "expected one per parameter");
    const std::unique_lock<std::mutex> lock = exclusive();
    for (std::size_t i = 0; i < steps.size(); ++i) parameters_[i].steps = steps[i];
  }

  // (grads, max_norm, grad_scale, check_finite, zero_grads)
  py::object step(PyObject* const* args) {
    PyObject *const max_norm = args[1], *const grad_scale = args[2];
    const bool clips = max_norm != Py_None, check_finite = truth(args[3]), zero_grads = truth(args[4]);
    const std::unique_lock<std::mutex> lock = exclusive();
    const double scale = number(grad_scale, "grad_scale");
    if (!(scale > 0) || std::isinf(scale))
      throw py::value_error("grad_scale must be positive and finite, got " + text(grad_scale));
    const double limit = clips ? number(max_norm, "max_norm") : 0;
    if (clips && !(limit > 0)) throw py::value_error("max_norm must be > 0, got " + text(max_norm));

    Keep keep;
    const std::size_t elements = take(args[0], zero_grads, keep);
    const bool needs_norm = clips || check_finite;
    double multiplier = 1 / scale;
    GradNorm norm{0, -1};
    {
      const MaybeReleaseGil release(elements > kReleaseGil);
      if (needs_norm) {
        norm = grad_norm(segments_);
        norm.norm /= scale;
        if (clips) multiplier = clip_factor(norm.norm, limit) / scale;
      }
      if (norm.nonfinite < 0) update_all(segments_, multiplier, zero_grads);
    }
    if (norm.nonfinite >= 0) {
      const std::size_t index = present_[std::size_t(norm.nonfinite)];
      PyObject* const first = keys_.empty() ? PyLong_FromSize_t(index) : Py_NewRef(keys_[index].ptr());
      return step_info(PyFloat_FromDouble(norm.norm), false, first);
    }
    for (const std::size_t index : present_) ++parameters_[index].steps;
    return needs_norm ? step_info(PyFloat_FromDouble(norm.norm), true, Py_NewRef(Py_None)) : applied_;
  }

 private:
  // One step at a time. Another thread's step may hold the lock while it waits for the GIL: never wait with the GIL
  // held.
  std::unique_lock<std::mutex> exclusive() {
    std::unique_lock<std::mutex> lock(*mutex_, std::try_to_lock);
    if (!lock) {
      const py::gil_scoped_release release;
      lock.lock();
    }
    return lock;
  }

  Name name_of_gradient(std::size_t i) const {
    if (single_) return {"grads"};
    return {"grads", Py_ssize_t(i), keys_.empty() ? nullptr : keys_[i].ptr()};
  }
  Name name_of_parameter(std::size_t i) const {
    if (single_) return {"params"};
    return {"params", Py_ssize_t(i), keys_.empty() ? nullptr : keys_[i].ptr()};
  }

  // One gradient per parameter, as a tuple of our own: the caller's list may change under us.
  py::tuple in_order(PyObject* grads) const {
    if (!keys_.empty()) return by_name(grads);
    const bool sequence = PyList_Check(grads) || PyTuple_Check(grads);
    if (single_ && !sequence) return py::make_tuple(py::handle(grads));
    if (!sequence)
      type_error({"grads"},
                 std::string("expected a list or tuple with an array per parameter, got ") + Py_TYPE(grads)->tp_name);
    py::tuple values = py::reinterpret_steal<py::tuple>(PySequence_Tuple(grads));
    if (values.size() != parameters_.size())
      value_error({"grads"},
                  "expected " + std::to_string(parameters_.size()) + " arrays, got " + std::to_string(values.size()));
    return values;
  }

  py::tuple by_name(PyObject* grads) const {
    if (!PyDict_Check(grads))
      type_error({"grads"}, std::string("expected a dict with the names of params, got ") + Py_TYPE(grads)->tp_name);
    const auto dict = py::reinterpret_borrow<py::dict>(grads);
    py::tuple values(keys_.size());
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      PyObject* const value = PyDict_GetItemWithError(grads, keys_[i].ptr());
      if (!value) value_error({"grads"}, "expected the names of params, got none for " + text(keys_[i].ptr()));
      PyTuple_SET_ITEM(values.ptr(), Py_ssize_t(i), Py_NewRef(value));
    }
    if (dict.size() != keys_.size())
      for (const auto& item : dict)
        if (std::none_of(keys_.begin(), keys_.end(), [&](const py::object& key) { return key.equal(item.first); }))
          value_error({"grads"}, "expected the names of params, got also " + text(item.first.ptr()));
    return values;
  }

  // Checks every gradient and fills segments_ and present_; None skips its parameter. Returns the number of elements.
  std::size_t take(PyObject* grads, bool zero, Keep& keep) {
    py::tuple values = in_order(grads);
    segments_.clear();
    present_.clear();
    for (Group& group : groups_) group.prepared.clear();
    std::size_t elements = 0;
    bool seen_before = checked_.size() == parameters_.size() && checked_zero_ == zero;
    checked_.resize(parameters_.size());
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Parameter& parameter = parameters_[i];
      PyObject* const object = PyTuple_GET_ITEM(values.ptr(), Py_ssize_t(i));
      char* const data = object == Py_None ? nullptr : check_gradient(parameter, object, i, zero, keep);
      seen_before = seen_before && checked_[i] == data;
      checked_[i] = data;
      if (object == Py_None) continue;
      check_parameter(parameter, i);
      Group& group = groups_[parameter.group];
      Segment& segment = segments_.emplace_back(parameter.segment);
      segment.rule = group.rule_for(parameter.steps + 1, parameter.fields.dtype);
      segment.sign = group.maximize ? -1 : 1;
      segment.tensor.g = data;
      present_.push_back(i);
      elements += segment.n;
    }
    if (!seen_before) {
      checked_zero_ = zero;
      try {
        check_gradients_apart(zero);
      } catch (...) {
        checked_.clear();
        throw;
      }
    }
    keep.push_back(std::move(values));
    return elements;
  }

  static bool same(const Py_ssize_t* a, const Py_ssize_t* b, int n) {  // std::equal calls memcmp: 6 ns for two numbers
    for (int i = 0; i < n; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

  // Returns where its elements are.
  char* check_gradient(const Parameter& parameter, PyObject* object, std::size_t i, bool zero, Keep& keep) const {
    // The usual case at a glance: an ndarray like the parameter. Otherwise one check after the other, for the message.
    const int wanted = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                       (zero ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
    const Array& like = parameter.fields;
    if (is_ndarray(object)) {
      const auto* fields = py::detail::array_proxy(object);
      if (fields->descr == py::detail::array_proxy(like.object)->descr && fields->nd == like.nd &&
          same(fields->dimensions, like.shape, like.nd) && (fields->flags & wanted) == wanted)
        return fields->data;
    }
    const Name name = name_of_gradient(i);
    const Array gradient = array(object, name, keep);
    check_dtype(gradient, name, like.dtype);
    check_same_shape(gradient, name, like);
    check_contiguous(gradient, name);
    if (zero) check_writeable(gradient, name);
    return gradient.data;
  }

  // The parameter's array may have been frozen, or given other memory, since the last step.
  void check_parameter(const Parameter& parameter, std::size_t i) const {
    const auto* fields = py::detail::array_proxy(parameter.array.ptr());
    if (!(fields->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
      value_error(name_of_parameter(i), "expected a writeable array, got a read-only one (a frozen cell's weights?)");
    if (fields->data != parameter.segment.tensor.p)
      value_error(name_of_parameter(i), "its memory was replaced since the optimizer was made");
  }

  // A gradient that shares memory with a parameter, a state, or (where it is zeroed) another gradient would be read
  // after it was overwritten.
  void check_gradients_apart(bool zero) {
    if (occupied_.empty()) {
      for (const Parameter& parameter : parameters_) {
        const std::size_t bytes = parameter.fields.bytes();
        occupied_.push_back(of(parameter.segment.tensor.p, bytes));
        for (std::size_t j = 0; j < parameter.state_arrays.size(); ++j)
          occupied_.push_back(of(parameter.segment.tensor.state[j], bytes));
      }
      std::sort(occupied_.begin(), occupied_.end(), before);
    }
    std::vector<std::pair<Extent, std::size_t>> gradients;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      const std::size_t index = present_[i];
      const Extent own = of(segments_[i].tensor.g, parameters_[index].fields.bytes());
      if (own.begin == own.end) continue;
      const auto next = std::lower_bound(occupied_.begin(), occupied_.end(), own, before);
      if ((next != occupied_.end() && own.overlaps(*next)) || (next != occupied_.begin() && own.overlaps(next[-1])))
        value_error(name_of_gradient(index), "expected memory of its own, got an overlap with a parameter or a state");
      gradients.push_back({own, index});
    }
    if (!zero) return;
    std::sort(gradients.begin(), gradients.end(),
              [](const auto& a, const auto& b) { return before(a.first, b.first); });
    for (std::size_t i = 1; i < gradients.size(); ++i)
      if (gradients[i].first.overlaps(gradients[i - 1].first))
        value_error(name_of_gradient(gradients[i].second),
                    "with zero_grads expected memory of its own, got an overlap with " +
                        name_of_gradient(gradients[i - 1].second).text());
  }
  static Extent of(void* data, std::size_t bytes) {
    return {static_cast<char*>(data), static_cast<char*>(data) + bytes};
  }
  static bool before(const Extent& a, const Extent& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  }

  const bool single_;
  Keep keys_;
  std::vector<Group> groups_;
  std::vector<Parameter> parameters_;
  py::object applied_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  // Of the current step.
  std::vector<Segment> segments_;
  std::vector<std::size_t> present_;
  // Memory that gradients must not share, sorted; and the gradients that were last found apart from it.
  std::vector<Extent> occupied_;
  std::vector<const void*> checked_;
  bool checked_zero_ = false;
};

// One tensor's step, for callers that keep their own arrays: arrays = (p, g, *states).
void update(const std::string& rule_name, const std::vector<double>& hyper, double t, double grad_scale,
            const std::vector<std::string>& names, const std::vector<py::object>& objects) {
  const int number = find_rule(rule_name);
  const RuleEntry& rule = table().rules[number];
  check_hyper(rule, hyper);
  if (int(objects.size()) != 2 + rule.states || names.size() != objects.size())
    throw py::value_error(rule_name + ": expected p, g and " + std::to_string(rule.states) + " states");
  Keep keep;
  std::vector<Array> arrays;
  const auto name = [&](std::size_t i) { return Name{names[i].c_str()}; };
  for (std::size_t i = 0; i < objects.size(); ++i) {
    arrays.push_back(array(objects[i].ptr(), name(i), keep));
    check_dtype(arrays[i], name(i), arrays[0].dtype);
    check_same_shape(arrays[i], name(i), arrays[0]);
    check_contiguous(arrays[i], name(i));
    if (i != 1) check_writeable(arrays[i], name(i));
    for (std::size_t j = 0; j < i; ++j) check_no_overlap(arrays[i], name(i), arrays[j], name(j));
  }
  alignas(double) unsigned char prepared[kRuleBytes];
  const RuleEntry& typed = table(arrays[0].dtype).rules[number];
  typed.prepare(hyper.data(), t, prepared);
  Segment segment{.step = typed.step,
                  .square_sums = nullptr,
                  .rule = prepared,
                  .sign = 1,
                  .n = arrays[0].size(),
                  .tensor = {arrays[0].data, arrays[1].data, {}}};
  for (int i = 0; i < rule.states; ++i) segment.tensor.state[i] = arrays[std::size_t(2 + i)].data;
  const MaybeReleaseGil release(segment.n > kReleaseGil);
  update_all({segment}, grad_scale, false);
}

py::dict rules() {
  py::dict rules;
  for (int i = 0; i < table().n_rules; ++i) {
    const RuleEntry& rule = table().rules[i];
    rules[rule.name] = py::make_tuple(py::tuple(py::cast(words(rule.hyper))), rule.states);
  }
  return rules;
}

}  // namespace

void bind_plan(py::module_& module) {
  static PyStructSequence_Field fields[] = {
      {"norm", "L2 norm over all gradients, unscaled and before clipping; None without a norm pass."},
      {"applied", "False where a gradient was not finite and nothing was changed."},
      {"first_nonfinite", "Index (or name) of the first tensor with a gradient that is not finite, or None."},
      {nullptr, nullptr}};
  static PyStructSequence_Desc description = {"fusedstep.optim.StepInfo", "What a step did.", fields, 3};
  step_info_type = PyStructSequence_NewType(&description);
  if (!step_info_type) throw py::error_already_set();
  module.attr("StepInfo") = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(step_info_type));

  py::class_<Plan>(module, "Plan", py::is_final())
      .def(py::init<const py::object&, bool>())
      .def("add_group", &Plan::add_group)
      .def("set_hyper", &Plan::set_hyper)
      .def("stepper", [](const py::object& self) {
    return fast_method<Plan, 5, &Plan::step>(self);
  }).def_property("steps", &Plan::steps, &Plan::set_steps);
  module.def("update", &update);
  module.def("rules", &rules);
}

}  // namespace fusedstep::python
