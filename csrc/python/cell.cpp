// Recurrent cells: arrays in, one indexed call out.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>

#include "core/table.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/fastcall.h"
#include "python/record.h"
#include "python/steps.h"
#include "python/weights.h"

namespace fusedstep::python {
namespace {

constexpr const char* kStateNames[kMaxCellStates] = {"h", "c"};
constexpr const char* kOutNames[kMaxCellStates] = {"out[0]", "out[1]"};
// B rows of n elements, or one row given as a vector; rows may lie apart.
struct Rows {
  Array fields;
  std::size_t ld;
};
Rows rows(PyObject* object, const Name& name, const Weights& w, bool vector, std::size_t B, std::size_t n, Keep& keep) {
  const Array a = array(object, name, keep);
  check_dtype(a, name, w.dtype);
  if (vector)
    check_shape(a, name, {Py_ssize_t(n)});
  else
    check_shape(a, name, {Py_ssize_t(B), Py_ssize_t(n)});
  const Py_ssize_t element = Py_ssize_t(size_of(w.dtype));
  if (a.contiguous()) return {a, n};
  const bool apart = !vector && (n == 1 || a.strides[1] == element) && a.strides[0] % element == 0 && a.strides[0] > 0;
  if (!apart) check_contiguous(a, name);
  return {a, std::size_t(a.strides[0] / element)};
}

// The arrays of a state given as a tuple or, where the cell has one, as an array.
PyObject* state_item(PyObject* state, int i, int states, const char* name) {
  if (states == 1) return state;
  if (!PyTuple_Check(state) && !PyList_Check(state))
    type_error({name}, std::string("expected a tuple (h, c), got ") + Py_TYPE(state)->tp_name);
  if (PySequence_Fast_GET_SIZE(state) != states)
    value_error({name}, "expected a tuple (h, c), got " + std::to_string(PySequence_Fast_GET_SIZE(state)) + " items");
  return PySequence_Fast_GET_ITEM(state, i);
}

py::object state_of(const std::array<py::object, kMaxCellStates>& arrays, int states) {
  return states == 1 ? arrays[0] : py::object(py::make_tuple(arrays[0], arrays[1]));
}

py::array empty(const Weights& w, std::initializer_list<std::size_t> shape) {
  return py::array(numpy_dtype(w.dtype), std::vector<Py_ssize_t>(shape.begin(), shape.end()));
}
py::array empty_rows(const Weights& w, bool vector, std::size_t B, std::size_t n) {
  return vector ? empty(w, {n}) : empty(w, {B, n});
}

// Shape of a step's input: B rows, or one row given as a vector.
struct Batch {
  Array x;
  bool vector;
  std::size_t B;

  Batch(PyObject* object, const Weights& w, Keep& keep) : x(array(object, {"x"}, keep)) {
    if (x.nd != 1 && x.nd != 2)
      value_error({"x"}, "expected shape (batch, " + std::to_string(w.I) + ") or (" + std::to_string(w.I) + ",), got " +
                             shape_text(x.nd, x.shape));
    vector = x.nd == 1;
    B = vector ? 1 : std::size_t(x.shape[0]);
  }
};

// The weights of a step, which not every cell has; a projection is a sequence's alone.
Weights step_weights(const std::string& kind, const py::dict& weights) {
  Weights w(kind, weights);
  if (!w.cell->forward) throw py::key_error("no step is called " + kind);
  if (w.arrays[5]) value_error({"weight_hr"}, "expected None, as a cell has no projection");
  return w;
}

py::object forward(const Weights& w, const void* packed, PyObject* x, PyObject* state, PyObject* out, bool tape) {
  const Recording recording;
  const int states = w.cell->states;
  Keep keep;
  const Batch batch(x, w, keep);
  const bool vector = batch.vector;
  const std::size_t B = batch.B, H = w.H;
  CellForward call{.B = B,
                   .I = w.I,
                   .H = H,
                   .weights = w.pointers(packed),
                   .x = nullptr,
                   .ld_x = 0,
                   .state = {},
                   .ld_state = {},
                   .out = {},
                   .saved = nullptr,
                   .zoneout = {}};
  const Rows input = rows(x, {"x"}, w, vector, B, w.I, keep);
  call.x = input.fields.data;
  call.ld_x = input.ld;

  std::array<Extent, 1 + kMaxCellStates> read{extent(input.fields)};
  for (int i = 0; i < states; ++i) {
    if (state == Py_None) keep.push_back(zeros({Py_ssize_t(B), Py_ssize_t(H)}, w.dtype));
    const Rows s = state == Py_None
                       ? Rows{array(keep.back().ptr(), {kStateNames[i]}, keep), H}
                       : rows(state_item(state, i, states, "state"), {kStateNames[i]}, w, vector, B, H, keep);
    call.state[i] = s.fields.data;
    call.ld_state[i] = s.ld;
    read[std::size_t(1 + i)] = extent(s.fields);
  }

  std::array<py::object, kMaxCellStates> results;
  for (int i = 0; i < states; ++i) {
    if (out == Py_None) {
      py::array result = empty_rows(w, vector, B, H);
      call.out[i] = result.mutable_data();
      results[std::size_t(i)] = std::move(result);
      continue;
    }
    const Name name{states == 1 ? "out" : kOutNames[i]};
    const Rows to = rows(state_item(out, i, states, "out"), name, w, vector, B, H, keep);
    check_contiguous(to.fields, name);
    check_writeable(to.fields, name);
    const Extent written = extent(to.fields);
    const auto apart = [&](const Extent& other, const char* what) {
      if (written.overlaps(other))
        value_error(name, std::string("expected memory of its own, got an overlap with ") + what);
    };
    apart(read[0], "x");
    for (int j = 0; j < states; ++j)  // a state may be updated in place
      if (i != j || to.fields.data != call.state[j] || call.ld_state[j] != H)
        apart(read[std::size_t(1 + j)], kStateNames[j]);
    for (int j = 0; j < i; ++j)
      apart({static_cast<char*>(call.out[j]), static_cast<char*>(call.out[j]) + to.fields.bytes()}, kOutNames[j]);
    for (int j = 0; j < kWeights; ++j) apart(w.extents[std::size_t(j)], kWeightNames[j]);
    call.out[i] = to.fields.data;
  }

  py::object saved = py::none();
  if (tape) {
    py::array room = empty(w, {B, std::size_t(w.cell->saved) * H});
    call.saved = room.mutable_data();
    saved = std::move(room);
  }
  {
    const double work = double(B) * double(H) * double(w.I + H) * w.cell->gates;
    const MaybeReleaseGil release(work > kLongProduct);
    w.cell->forward(call);
  }
  if (recording) [[unlikely]] {
    const std::uint32_t bits = (packed ? option::frozen : 0) | (tape ? option::tape : 0);
    recording.add(Kind::cell, w.cell->name, w.dtype, bits | (w.has_bias() ? option::bias : 0),
                  {std::int64_t(B), std::int64_t(w.I), std::int64_t(H)});
  }
  py::object result = out == Py_None ? state_of(results, states) : py::reinterpret_borrow<py::object>(out);
  return tape ? py::object(py::make_tuple(result, saved)) : result;
}

py::tuple cell_backward(const std::string& kind, const py::dict& weights, const py::object& x,
                        const py::sequence& state, const py::sequence& out, const py::object& saved,
                        const py::sequence& dout) {
  const Recording recording;
  const Weights w = step_weights(kind, weights);
  const int states = w.cell->states;
  Keep keep;
  const Batch batch(x.ptr(), w, keep);
  const bool vector = batch.vector;
  const std::size_t B = batch.B, I = w.I, H = w.H, GH = std::size_t(w.cell->gates) * H;
  CellBackward call{};
  call.B = B;
  call.I = I;
  call.H = H;
  call.weights = w.pointers(nullptr);
  const Rows input = rows(x.ptr(), {"x"}, w, vector, B, I, keep);
  call.x = input.fields.data;
  call.ld_x = input.ld;

  // Zeros stand for what is None; what has rows apart is copied where the kernel wants it whole.
  const auto given = [&](const py::object& object, const char* name) {
    if (!object.is_none()) return rows(object.ptr(), {name}, w, vector, B, H, keep);
    keep.push_back(zeros({Py_ssize_t(B), Py_ssize_t(H)}, w.dtype));
    return Rows{array(keep.back().ptr(), {name}, keep), H};
  };
  const auto whole = [&](const py::object& object, const char* name) {
    const Rows r = given(object, name);
    if (r.ld != H) check_contiguous(r.fields, {name});
    return r.fields.data;
  };
  constexpr const char* gradient_names[kMaxCellStates] = {"dh", "dc"};
  for (int i = 0; i < states; ++i) {
    const Rows s = given(state[std::size_t(i)], kStateNames[i]);
    call.state[i] = s.fields.data;
    call.ld_state[i] = s.ld;
    call.out[i] = whole(out[std::size_t(i)], kOutNames[i]);
    call.dout[i] = whole(dout[std::size_t(i)], gradient_names[i]);
  }
  const Array tape = array(saved.ptr(), {"saved"}, keep);
  check_dtype(tape, {"saved"}, w.dtype);
  check_shape(tape, {"saved"}, {Py_ssize_t(B), Py_ssize_t(std::size_t(w.cell->saved) * H)});
  check_contiguous(tape, {"saved"});
  call.saved = tape.data;

  py::array dx = empty_rows(w, vector, B, I);
  call.dx = dx.mutable_data();
  py::tuple dstate{std::size_t(states)};
  for (int i = 0; i < states; ++i) {
    py::array d = empty_rows(w, vector, B, H);
    call.dstate[i] = d.mutable_data();
    dstate[std::size_t(i)] = d;
  }
  // Gradients of absent weights are computed into arrays that are dropped.
  std::array<py::array, kWeights> gradients{empty(w, {GH, I}),
                                            empty(w, {GH, H}),
                                            empty(w, {GH}),
                                            empty(w, {GH}),
                                            empty(w, {std::size_t(w.cell->peepholes), H}),
                                            empty(w, {0})};
  call.dweight_ih = gradients[0].mutable_data();
  call.dweight_hh = gradients[1].mutable_data();
  call.dbias_ih = gradients[2].mutable_data();
  call.dbias_hh = gradients[3].mutable_data();
  call.dweight_ch = gradients[4].mutable_data();
  {
    const py::gil_scoped_release release;
    w.cell->backward(call);
  }
  if (recording) [[unlikely]]
    recording.add(Kind::cell_backward, w.cell->name, w.dtype, w.has_bias() ? option::bias : 0,
                  {std::int64_t(B), std::int64_t(I), std::int64_t(H)});
  py::dict named;
  for (int i = 0; i < kWeights; ++i)
    if (w.arrays[i]) named[kWeightNames[i]] = gradients[std::size_t(i)];
  return py::make_tuple(dx, dstate, named);
}

// Weights that are checked once and, while frozen, a packed snapshot of them.
class Cell {
 public:
  Cell(const std::string& kind, const py::dict& weights) : weights_(step_weights(kind, weights)) {}

  bool frozen() const { return packed_ != nullptr; }
  void freeze() {
    py::array packed = weights_.packed();
    weights_.set_writeable(false);
    packed_ = packed.mutable_data();
    packed_array_ = std::move(packed);
  }
  void unfreeze() {
    weights_.set_writeable(true);
    packed_ = nullptr;
    packed_array_ = py::none();
  }

  // (x, state, out, tape)
  py::object step(PyObject* const* args) {
    const py::object hold = packed_array_;  // another thread may unfreeze while this one computes
    return forward(weights_, packed_, args[0], args[1], args[2], args[3] == Py_True);
  }

 private:
  const Weights weights_;
  py::object packed_array_;
  void* packed_ = nullptr;
};

py::dict cells() {
  py::dict cells;
  for (int i = 0; i < table().n_cells; ++i) {
    const CellEntry& cell = table().cells[i];
    py::dict row;
    row["gates"] = cell.gates;
    row["states"] = cell.states;
    row["saved"] = cell.saved;
    row["peepholes"] = cell.peepholes;
    row["norms"] = cell.norms;
    row["step"] = cell.forward != nullptr;
    cells[cell.name] = row;
  }
  return cells;
}

}  // namespace

void bind_cell(py::module_& module) {
  module.attr("Steps") = steps_type();
  py::class_<Cell>(module, "Cell", py::is_final())
      .def(py::init<const std::string&, const py::dict&>())
      .def_property_readonly("frozen", &Cell::frozen)
      .def("freeze", &Cell::freeze)
      .def("unfreeze", &Cell::unfreeze)
      .def("stepper", [](const py::object& self) { return fast_method<Cell, 4, &Cell::step>(self); });
  module.def("cell_forward", [](const std::string& kind, const py::dict& weights, const py::object& x,
                                const py::object& state, const py::object& out, bool tape) {
    return forward(step_weights(kind, weights), nullptr, x.ptr(), state.ptr(), out.ptr(), tape);
  });
  module.def("cell_backward", &cell_backward);
  module.def("cells", &cells);
}

}  // namespace fusedstep::python
