// The arrays of a loss: operands that are broadcast to the input, and where the gradient goes.
#pragma once

#include <vector>

#include "core/loss.h"
#include "python/arrays.h"

namespace fusedstep::python {

inline constexpr std::size_t kReleaseGil = 4096;  // elements, about a microsecond and more

std::vector<Py_ssize_t> shape_vector(const Array& array);

// A number, or an array that is broadcast to `shape`.
Operand operand(const py::object& object, const Name& name, Dtype dtype, const std::vector<Py_ssize_t>& shape,
                Keep& keep);

// Where a gradient goes; it may be the input itself. Null for None.
void* gradient(const py::object& grad, const Array& input, const Name& name, Keep& keep);
// ValueError where the gradient, of so many bytes, shares memory with an operand.
void check_apart(const void* grad, std::size_t bytes, const Operand& operand, Dtype dtype, const char* name);

void* values_of(const py::object& values);

// Bytes that an operand has in memory: what is broadcast counts once.
std::size_t bytes_of(const Operand& operand, Dtype dtype);

}  // namespace fusedstep::python
