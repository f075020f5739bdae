// The type below the cells: calling an instance costs a step some 50 ns, where a `__call__` in Python costs 250.
#pragma once

#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <string>

#include "python/bind.h"
#include "python/fastcall.h"

namespace fusedstep::python {

struct Steps {
  PyObject_HEAD;
  PyObject* step;  // (x, state, out, tape)
  vectorcallfunc call;
};

inline constexpr const char* kStepsDoc =
    R"(__call__($self, /, x, state=None, *, out=None, tape=False)
--

Take one step.

Parameters
----------
x : array_like
    (batch, input_size) or (input_size,), the cell's dtype; rows may lie apart, as in ``x[:, t]``.
state : array_like or tuple of array_like, optional
    h, or (h, c) for an LSTM: (batch, hidden_size) or (hidden_size,) each; zeros where None.
out : array_like or tuple of array_like, optional
    Where the new state is written, of the same form, C-contiguous; may be `state` itself. Without it new arrays
    are made.
tape : bool, optional
    Return also what `backward` needs. It refers to the arguments, or copies them where `out` is given.

Returns
-------
state
    The new state (`out` itself where it was given); with `tape`, a pair (state, Tape).

Raises
------
ValueError, TypeError
    An argument does not fit; the message names it. Nothing was written.

Notes
-----
The same bits frozen or not, with or without `out`, for a row alone or in a batch, with any number of threads,
on every instruction set.
)";

// Calls `step`, or with `tape` the method `_taped`.
inline PyObject* call_steps(PyObject* self, PyObject* const* args, std::size_t counted, PyObject* keywords) {
  return translated([&]() -> PyObject* {
    constexpr Py_ssize_t positional = 2, all = 4;
    static constexpr const char* names[all] = {"x", "state", "out", "tape"};
    PyObject* values[all] = {};
    const Py_ssize_t given = PyVectorcall_NARGS(counted), named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    if (given > positional)
      throw pybind11::type_error("expected x and state as positional arguments, got " + std::to_string(given));
    std::copy_n(args, given, values);
    for (Py_ssize_t j = 0; j < named; ++j) {
      PyObject* const name = PyTuple_GET_ITEM(keywords, j);
      Py_ssize_t i = all;
      while (i > 0 && PyUnicode_CompareWithASCIIString(name, names[i - 1]) != 0) --i;
      if (i == 0) throw pybind11::type_error("got an unknown argument " + pybind11::repr(name).cast<std::string>());
      if (values[i - 1]) throw pybind11::type_error(std::string("got ") + names[i - 1] + " twice");
      values[i - 1] = args[given + j];
    }
    if (!values[0]) throw pybind11::type_error("x: expected an array, got no argument");
    for (Py_ssize_t i = 1; i < all; ++i)
      if (!values[i]) values[i] = Py_None;
    const int tape = PyObject_IsTrue(values[3]);
    if (tape < 0) return nullptr;
    if (tape) return PyObject_CallMethod(self, "_taped", "OOO", values[0], values[1], values[2]);
    values[3] = Py_False;
    PyObject* const step = reinterpret_cast<Steps*>(self)->step;
    if (!step) throw pybind11::type_error("expected a cell that __init__ has made");
    return PyObject_Vectorcall(step, values, all, nullptr);
  });
}

inline PyObject* new_steps(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* const self = type->tp_alloc(type, 0);
  if (self) reinterpret_cast<Steps*>(self)->call = &call_steps;
  return self;
}

// A class that has no `__call__` of its own is called as fast as its base. Python would look `__call__` up, since it is
// a method (which has a docstring), not the bare slot.
inline PyObject* init_subclass(PyObject* type, PyObject*) {
  return translated([&]() -> PyObject* {
    const pybind11::object call = pybind11::handle(type).attr("__call__");
    if (PyObject_TypeCheck(call.ptr(), &PyMethodDescr_Type) &&
        reinterpret_cast<PyMethodDescrObject*>(call.ptr())->d_method->ml_doc == kStepsDoc) {
      auto* const of = reinterpret_cast<PyTypeObject*>(type);
      of->tp_call = &PyVectorcall_Call;
      of->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    }
    return Py_NewRef(Py_None);
  });
}

inline pybind11::object steps_type() {
  static PyMemberDef members[] = {{"_step", T_OBJECT_EX, offsetof(Steps, step), 0, nullptr},
                                  {"__vectorcalloffset__", T_PYSSIZET, offsetof(Steps, call), READONLY, nullptr},
                                  {}};
  static PyMethodDef methods[] = {
      {"__call__",
       reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(
           +[](PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
    return call_steps(self, args, std::size_t(count), keywords);
  })),
       METH_FASTCALL | METH_KEYWORDS | METH_COEXIST, kStepsDoc},
      {"__init_subclass__", &init_subclass, METH_NOARGS | METH_CLASS, nullptr},
      {}};
  static PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(&new_steps)},
      {Py_tp_call, reinterpret_cast<void*>(&PyVectorcall_Call)},
      {Py_tp_methods, methods},
      {Py_tp_members, members},
      {Py_tp_traverse, reinterpret_cast<void*>(+[](PyObject* self, visitproc visit, void* arg) -> int {
    Py_VISIT(reinterpret_cast<Steps*>(self)->step);
    Py_VISIT(Py_TYPE(self));
    return 0;
  })},
      {Py_tp_clear, reinterpret_cast<void*>(+[](PyObject* self) -> int {
    Py_CLEAR(reinterpret_cast<Steps*>(self)->step);
    return 0;
  })},
      {Py_tp_dealloc, reinterpret_cast<void*>(+[](PyObject* self) {
    PyTypeObject* const type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(reinterpret_cast<Steps*>(self)->step);
    type->tp_free(self);
    Py_DECREF(type);
  })},
      {}};
  static PyType_Spec spec = {"fusedstep._core.Steps", sizeof(Steps), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
                             slots};
  auto type = pybind11::reinterpret_steal<pybind11::object>(PyType_FromSpec(&spec));
  if (!type) throw pybind11::error_already_set();
  return type;
}

}  // namespace fusedstep::python
