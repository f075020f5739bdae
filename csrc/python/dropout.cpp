// Dropout between layers.
#include <algorithm>
#include <cstdint>

#include "cpu/threads.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/calls.h"
#include "python/record.h"

namespace fusedstep::python {
namespace {

// x (T, B, n) with a dropout mask applied, into an array of the same shape.
void dropout(const py::array& x, py::array& y, double p, std::uint64_t seed, std::uint32_t layer,
             std::uint32_t first_step, std::uint32_t first_row) {
  Keep keep;
  const Array from = array(x.ptr(), {"x"}, keep), to = array(y.ptr(), {"y"}, keep);
  if (from.nd != 3) throw py::value_error("x: expected three dimensions");
  check_same_shape(to, {"y"}, from);
  check_dtype(to, {"y"}, from.dtype);
  const Py_ssize_t element = Py_ssize_t(size_of(from.dtype));
  if (from.size() > 0 && from.shape[2] > 1 && (from.strides[2] != element || to.strides[2] != element))
    throw py::value_error("x, y: expected the elements of a row side by side");
  const Recording recording;
  const auto steps = std::size_t(from.shape[0]), rows = std::size_t(from.shape[1]), n = std::size_t(from.shape[2]);
  const py::gil_scoped_release release;
  const double threads = std::clamp(double(from.size()) / (1 << 16), 1.0, double(num_threads()));
  parallel(int(threads), [&](const Team& team) {
    const Share own(steps * rows, 1, team.thread, team.threads);
    for (std::size_t i = own.begin; i < own.end; ++i) {
      const auto step = Py_ssize_t(i / rows), row = Py_ssize_t(i % rows);
      table(from.dtype)
          .dropout(from.data + step * from.strides[0] + row * from.strides[1],
                   to.data + step * to.strides[0] + row * to.strides[1], n, p,
                   {seed, layer, first_step + std::uint32_t(step), first_row + std::uint32_t(row)});
    }
  });
  if (recording) [[unlikely]]
    recording.add(Kind::dropout, "dropout", from.dtype, 0, {std::int64_t(steps * rows * n)});
}

}  // namespace

void bind_dropout(py::module_& module) { module.def("dropout", &dropout); }

}  // namespace fusedstep::python
