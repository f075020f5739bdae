#include "python/arguments.h"

namespace fusedstep::python {

std::string Name::text() const {
  if (key) return std::string(base) + "[" + repr(key) + "]";
  return index < 0 ? base : std::string(base) + "[" + std::to_string(index) + "]";
}

void value_error(const Name& name, const std::string& rule) { throw py::value_error(name.text() + ": " + rule); }
void type_error(const Name& name, const std::string& rule) { throw py::type_error(name.text() + ": " + rule); }

std::string repr(PyObject* object) { return py::repr(object).cast<std::string>(); }

std::string shape_text(int nd, const Py_ssize_t* shape) {
  std::string text = "(";
  for (int i = 0; i < nd; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (nd == 1 ? ",)" : ")");
}

}  // namespace fusedstep::python
