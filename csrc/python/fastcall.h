// A bound method without pybind11's dispatch, for the two calls whose overhead counts: it costs some 50 ns, not 250.
#pragma once

#include <pybind11/pybind11.h>

#include <new>

namespace fusedstep::python {

// What f returns, or null with the Python exception that its C++ exception stands for.
template <class F>
PyObject* translated(F f) noexcept {
  try {
    return f();
  } catch (pybind11::error_already_set& error) {
    error.restore();
  } catch (const pybind11::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// A callable of exactly `arguments` positional arguments that runs (self.*method)(args). It keeps `self` alive.
template <class T, int arguments, pybind11::object (T::*method)(PyObject* const* args)>
pybind11::object fast_method(const pybind11::object& self) {
  static PyMethodDef definition = {"fast_method",
                                   reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(
                                       +[](PyObject* capsule, PyObject* const* args, Py_ssize_t count) -> PyObject* {
    return translated([&] {
      if (count != arguments) throw pybind11::type_error("expected " + std::to_string(arguments) + " arguments");
      T* const target = static_cast<T*>(PyCapsule_GetPointer(capsule, nullptr));
      return (target->*method)(args).release().ptr();
    });
  })),
                                   METH_FASTCALL, nullptr};
  PyObject* const owner = self.ptr();
  const auto capsule = pybind11::reinterpret_steal<pybind11::object>(PyCapsule_New(
      self.cast<T*>(), nullptr, [](PyObject* c) { Py_DECREF(static_cast<PyObject*>(PyCapsule_GetContext(c))); }));
  PyCapsule_SetContext(capsule.ptr(), Py_NewRef(owner));
  return pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&definition, capsule.ptr()));
}

}  // namespace fusedstep::python
