// Recurrent sweeps on CUDA: device arrays in, launches out. The arrays' shapes are the package's own doing; what is
// checked here keeps a mistake there from becoming a wrong address.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cuda/recurrence.h"
#include "python/cuda_bind.h"

namespace fusedstep::python {
namespace {

namespace py = pybind11;
using namespace cuda;
using namespace py::literals;

Stream stream_of(std::uintptr_t pointer) { return reinterpret_cast<Stream>(pointer); }

// A device array by its __cuda_array_interface__; strides in elements.
struct Raw {
  std::string name, type;
  void* data;
  std::vector<std::ptrdiff_t> shape, strides;

  Raw(const char* called, const py::handle& object) : name(called) {
    const auto fields = py::cast<py::dict>(object.attr("__cuda_array_interface__"));
    type = py::cast<std::string>(fields["typestr"]).substr(1);
    data = reinterpret_cast<void*>(py::cast<std::uintptr_t>(py::cast<py::tuple>(fields["data"])[0]));
    shape = py::cast<std::vector<std::ptrdiff_t>>(fields["shape"]);
    const py::object given = fields.attr("get")("strides", py::none());
    if (given.is_none()) {
      strides = of_contiguous();
    } else {
      strides = py::cast<std::vector<std::ptrdiff_t>>(given);
      for (std::ptrdiff_t& stride : strides) stride /= std::stoi(type.substr(1));
    }
  }

  const Raw& typed(const char* expected) const {
    if (type != expected) throw py::type_error(name + ": got dtype " + type);
    return *this;
  }
  const Raw& shaped(const std::vector<std::size_t>& expected) const {
    if (!std::equal(shape.begin(), shape.end(), expected.begin(), expected.end(),
                    [](std::ptrdiff_t a, std::size_t b) { return a == std::ptrdiff_t(b); }))
      throw py::value_error(name + ": got shape " + py::str(py::cast(shape)).cast<std::string>());
    return *this;
  }
  void* contiguous() const {
    const auto whole = of_contiguous();
    for (std::size_t i = 0; i < shape.size() && !empty(); ++i)
      if (shape[i] > 1 && strides[i] != whole[i]) throw py::value_error(name + ": expected a contiguous array");
    return data;
  }
  // Steps and rows may lie apart.
  Strided strided() const {
    if (shape.size() > 2 && shape[2] > 1 && strides[2] != 1 && !empty())
      throw py::value_error(name + ": rows in pieces");
    return {data, strides[0], strides[1]};
  }

 private:
  bool empty() const { return std::count(shape.begin(), shape.end(), 0) > 0; }
  std::vector<std::ptrdiff_t> of_contiguous() const {
    std::vector<std::ptrdiff_t> all(shape.size());
    std::ptrdiff_t stride = 1;
    for (std::size_t i = shape.size(); i-- > 0; stride *= std::max<std::ptrdiff_t>(shape[i], 1)) all[i] = stride;
    return all;
  }
};

const char* type_name(Dtype dtype) { return dtype == Dtype::f32 ? "f4" : "f8"; }
Dtype dtype_of(const Raw& array) {
  if (array.type != "f4") array.typed("f8");
  return array.type == "f4" ? Dtype::f32 : Dtype::f64;
}

const RecurrentEntry& cell_of(const std::string& kind, Dtype dtype) {
  const RecurrentEntry* const cell = recurrent(kind, dtype);
  if (!cell) throw py::key_error("no cell is called " + kind);
  return *cell;
}

// A direction of a layer, with the arrays that the caller gives by the names of Recurrence's fields. What a kernel
// writes must be there when it runs.
class Sweep {
 public:
  Sweep(const std::string& kind, std::size_t T, std::size_t S, std::size_t B, std::size_t H, bool reverse,
        const py::dict& arrays)
      : arrays_(arrays), dtype_(dtype_of(Raw("weight_hh", arrays["weight_hh"]))), cell_(&cell_of(kind, dtype_)) {
    const std::size_t G = std::size_t(cell_->gates), GH = G * H, state_gates = std::size_t(cell_->state_gates) * H,
                      values = std::size_t(cell_->values) * H;
    if (S > T) throw py::value_error("S");
    r_ = {};
    r_.S = S;
    r_.B = B;
    r_.H = H;
    r_.reverse = reverse;
    r_.weight_hh = whole("weight_hh", {GH, H});
    r_.bias_ih = whole("bias_ih", {GH});
    r_.bias_hh = whole("bias_hh", {GH});
    r_.weight_ch = whole("weight_ch", {std::size_t(cell_->peepholes), H});
    if (cell_->peepholes > 0) require({"weight_ch"});
    if (const auto lengths = find("lengths"))
      r_.lengths = static_cast<const std::int64_t*>(lengths->typed("i8").shaped({B}).contiguous());
    if (const auto reset = find("reset")) {
      const Strided mask = reset->typed("b1").shaped({T, B}).strided();
      r_.reset = static_cast<const bool*>(mask.data);
      r_.ld_reset[0] = mask.step;
      r_.ld_reset[1] = mask.row;
    }
    const char* const initial[] = {"initial_h", "initial_c"};
    for (int i = 0; i < cell_->states; ++i)
      if (const auto state = find(initial[i])) {
        r_.initial[i] = state->typed(type_name(dtype_)).shaped({B, H}).data;
        if (H > 1 && state->strides[1] != 1) throw py::value_error(state->name + ": rows in pieces");
        r_.ld_initial[i] = std::size_t(state->strides[0]);
      }
    r_.input = strided("input", {T, B, GH});
    r_.y = strided("y", {T, B, H});
    r_.h[0] = whole("h0", {B, H});
    r_.h[1] = whole("h1", {B, H});
    r_.c[0] = whole("c0", {B, H});
    r_.c[1] = whole("c1", {B, H});
    r_.hidden = whole("hidden", {B, state_gates});
    r_.reset_h = whole("reset_h", {B, H});
    r_.late = whole("late", {B, H});
    r_.saved = whole("saved", {S, B, values});
    r_.states = whole("states", {S, B, H});
    r_.dy = strided("dy", {T, B, H});
    r_.dh = whole("dh", {B, H});
    r_.dc = whole("dc", {B, H});
    r_.through = whole("through", {B, H});
    r_.dinput = strided("dinput", {T, B, GH});
    r_.dstate = whole("dstate", {S, B, state_gates});
    r_.dlate = whole("dlate", {S, B, H});
    r_.dreset_h = whole("dreset_h", {B, H});
    r_.previous_h = whole("previous_h", {S, B, H});
    r_.previous_c = whole("previous_c", {S, B, H});
    r_.all_reset_h = whole("all_reset_h", {S, B, H});
  }

  // A cell's step: addresses by the same names, of contiguous arrays whose shapes the caller has checked.
  Sweep(const std::string& kind, bool single, std::size_t B, std::size_t H, const py::dict& addresses)
      : arrays_(addresses), dtype_(single ? Dtype::f32 : Dtype::f64), cell_(&cell_of(kind, dtype_)) {
    const std::ptrdiff_t width = std::ptrdiff_t(H), gates = cell_->gates * width;
    const auto at = [&](const char* name) -> void* {
      PyObject* const address = PyDict_GetItemString(addresses.ptr(), name);
      return address ? PyLong_AsVoidPtr(address) : nullptr;
    };
    r_ = {};
    r_.S = 1;
    r_.B = B;
    r_.H = H;
    r_.bias_ih = at("bias_ih");
    r_.bias_hh = at("bias_hh");
    r_.weight_ch = at("weight_ch");
    r_.initial[0] = at("initial_h");
    r_.initial[1] = at("initial_c");
    r_.ld_initial[0] = r_.ld_initial[1] = H;
    r_.input = {at("input"), 0, gates};
    r_.h[0] = at("h0");
    r_.h[1] = at("h1");
    r_.c[0] = at("c0");
    r_.c[1] = at("c1");
    r_.hidden = at("hidden");
    r_.reset_h = at("reset_h");
    r_.late = at("late");
    r_.saved = at("saved");
    r_.states = at("states");
    r_.dh = at("dh");
    r_.dc = at("dc");
    r_.through = at("through");
    r_.dinput = {at("dinput"), 0, gates};
    r_.dstate = at("dstate");
    r_.dlate = at("dlate");
    r_.dreset_h = at("dreset_h");
    r_.all_reset_h = at("all_reset_h");
    if (PyErr_Occurred()) throw py::error_already_set();
  }

  const Recurrence& recurrence() const { return r_; }
  const char* kind() const { return cell_->name; }
  Dtype dtype() const { return dtype_; }

  void begin(std::uintptr_t stream) const {
    require({"initial_h", "h0"});
    if (cell_->states > 1) require({"initial_c", "c0"});
    cell_->begin(r_, stream_of(stream));
  }
  void reset_stage(std::size_t step, std::uintptr_t stream) const {
    require_forward();
    require({"hidden"});
    run(cell_->reset_stage, step, stream);
  }
  void forward(std::size_t step, std::uintptr_t stream) const {
    require_forward();
    require({cell_->reset_stage ? "late" : "hidden"});
    run(cell_->forward, step, stream);
  }
  void backward(std::size_t step, std::uintptr_t stream) const {
    require_backward();
    if (step + 1 < r_.S) require({"through"});
    run(cell_->backward, step, stream);
  }
  void reset_backward(std::size_t step, std::uintptr_t stream) const {
    require_backward();
    require({"dreset_h"});
    run(cell_->reset_backward, step, stream);
  }
  void finish(std::uintptr_t stream) const {
    require({"dh", "through"});
    cell_->finish(r_, stream_of(stream));
  }

  // What every kernel forward, or backward, reads and writes.
  void require_forward() const {
    require({"input", "h0", "h1"});
    if (cell_->states > 1) require({"c0", "c1"});
    if (cell_->reset_stage) require({"reset_h"});
  }
  void require_backward() const {
    require({"initial_h", "saved", "dh", "dinput"});
    if (r_.S > 1) require({"y"});
    if (cell_->states > 1) require({"initial_c", "states", "dc"});
    if (cell_->reset_stage) require({"dlate"});
    if (cell_->reset_stage || cell_->separate) require({"dstate"});
  }
  // A persistent kernel reads the gradients that W_hh sees row by row.
  void require_rows() const {
    if (!r_.dstate && r_.dinput.row != std::ptrdiff_t(std::size_t(cell_->gates) * r_.H)) require({"dstate"});
  }

 private:
  std::optional<Raw> find(const char* name) const {
    const py::object object = arrays_.attr("get")(name, py::none());
    return object.is_none() ? std::nullopt : std::optional<Raw>(std::in_place, name, object);
  }
  void require(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (arrays_.attr("get")(name, py::none()).is_none()) throw py::key_error(name);
  }
  void* whole(const char* name, std::initializer_list<std::size_t> shape) const {
    const auto array = find(name);
    return array ? array->typed(type_name(dtype_)).shaped(shape).contiguous() : nullptr;
  }
  Strided strided(const char* name, std::initializer_list<std::size_t> shape) const {
    const auto array = find(name);
    return array ? array->typed(type_name(dtype_)).shaped(shape).strided() : Strided{};
  }
  void run(void (*kernel)(const Recurrence&, std::size_t, Stream), std::size_t step, std::uintptr_t stream) const {
    if (!kernel) throw py::value_error(std::string(cell_->name) + " has one product");
    if (step >= r_.S) throw py::value_error("step");
    kernel(r_, step, stream_of(stream));
  }

  const py::dict arrays_;  // keeps them alive
  const Dtype dtype_;
  const RecurrentEntry* const cell_;
  Recurrence r_;
};

// Without arguments of a device, the current one counts.
Multiprocessors device_of(const std::optional<std::pair<int, std::size_t>>& given) {
  return given ? Multiprocessors{given->first, given->second} : multiprocessors();
}
using Given = std::optional<std::pair<int, std::size_t>>;

bool persistent_fits(const std::string& kind, bool single, std::size_t B, std::size_t H, int n, bool backward,
                     const Given& device) {
  const PersistentEntry* const entry = persistent(kind, single ? Dtype::f32 : Dtype::f64);
  return entry && entry->fits(B, H, n, backward, device_of(device));
}

void persistent_sweep(const std::vector<const Sweep*>& sweeps, bool backward, const py::object& arrived,
                      std::uintptr_t stream, const Given& device) {
  if (sweeps.empty() || sweeps.size() > 2) throw py::value_error("expected 1 or 2 sweeps");
  const Sweep& first = *sweeps[0];
  const PersistentEntry* const entry = persistent(first.kind(), first.dtype());
  if (!entry) throw py::value_error("no persistent kernel");
  std::vector<Recurrence> all;
  for (const Sweep* sweep : sweeps) {
    backward ? sweep->require_backward() : sweep->require_forward();
    if (backward) sweep->require_rows();
    all.push_back(sweep->recurrence());
    const Recurrence &a = all.front(), &b = all.back();
    if (sweep->kind() != first.kind() || sweep->dtype() != first.dtype() || a.S != b.S || a.B != b.B || a.H != b.H)
      throw py::value_error("expected sweeps of one shape");
  }
  auto* const counters =
      static_cast<unsigned*>(Raw("arrived", arrived).typed("u4").shaped({sweeps.size() * kArrivals}).contiguous());
  (backward ? entry->sweep_back : entry->sweep)(all.data(), int(all.size()), counters, device_of(device),
                                                stream_of(stream));
}

// a, b (n, columns), rows may lie apart.
void sums(const py::object& a, const py::object& b, const std::vector<py::object>& to, bool add, const py::object& room,
          std::uintptr_t stream) {
  const Raw terms("a", a);
  const Dtype dtype = dtype_of(terms);
  const auto n = std::size_t(terms.shape.at(0)), columns = std::size_t(terms.shape.at(1));
  ColumnSums call{.n = n,
                  .columns = columns,
                  .a = nullptr,
                  .ld_a = 0,
                  .b = nullptr,
                  .ld_b = 0,
                  .to = {},
                  .add = add,
                  .sums = nullptr};
  const auto matrix = [&](const Raw& array, const void*& data, std::size_t& ld) {
    array.typed(type_name(dtype)).shaped({n, columns});
    if (columns > 1 && array.strides[1] != 1) throw py::value_error(array.name + ": rows in pieces");
    data = array.data;
    ld = std::size_t(array.strides[0]);
  };
  matrix(terms, call.a, call.ld_a);
  if (!b.is_none()) matrix(Raw("b", b), call.b, call.ld_b);
  if (to.empty() || to.size() > std::size(call.to)) throw py::value_error("to");
  for (std::size_t i = 0; i < to.size(); ++i)
    call.to[i] = Raw("to", to[i]).typed(type_name(dtype)).shaped({columns}).contiguous();
  const Raw doubles("room", room);
  if (std::size_t(doubles.typed("f8").shape.at(0)) < sums_size(n, columns)) throw py::value_error("room");
  call.sums = static_cast<double*>(doubles.contiguous());
  column_sums(dtype, call, stream_of(stream));
}

struct RowsOf {
  RowsCall call;
  Dtype dtype;

  RowsOf(const py::object& x, const py::object& y) {
    const Raw from("x", x), to("y", y);
    dtype = dtype_of(from);
    if (from.shape.size() != 3) throw py::value_error("x: expected three dimensions");
    call.T = std::size_t(from.shape[0]);
    call.B = std::size_t(from.shape[1]);
    call.n = std::size_t(from.shape[2]);
    call.x = from.strided();
    call.y = to.typed(type_name(dtype)).shaped({call.T, call.B, call.n}).strided();
  }
};

py::dict cells() {
  py::dict all;
  for (const char* name : recurrent_names()) {
    const RecurrentEntry& cell = cell_of(name, Dtype::f32);
    py::list peepholes;
    for (int i = 0; i < cell.peepholes; ++i)
      peepholes.append(py::make_tuple(cell.peephole_gate[i], cell.peephole_sees_next[i]));
    all[name] = py::dict("gates"_a = cell.gates, "states"_a = cell.states, "values"_a = cell.values,
                         "state_gates"_a = cell.state_gates, "separate"_a = cell.separate, "peepholes"_a = peepholes);
  }
  return all;
}

}  // namespace

void bind_cuda_rnn(py::module_& module) {
  py::class_<Sweep>(module, "Sweep", py::is_final())
      .def(py::init<const std::string&, std::size_t, std::size_t, std::size_t, std::size_t, bool, const py::dict&>())
      .def(py::init<const std::string&, bool, std::size_t, std::size_t, const py::dict&>())
      .def("begin", &Sweep::begin)
      .def("reset_stage", &Sweep::reset_stage)
      .def("forward", &Sweep::forward)
      .def("backward", &Sweep::backward)
      .def("reset_backward", &Sweep::reset_backward)
      .def("finish", &Sweep::finish);
  module.attr("arrivals") = kArrivals;
  module.def("recurrent_cells", &cells);
  module.def("persistent_fits", &persistent_fits);
  module.def("persistent_sweep", &persistent_sweep);
  module.def("sums_size", &sums_size);
  module.def("column_sums", &sums);
  module.def("dropout", [](const py::object& x, const py::object& y, double p, std::uint64_t seed, std::uint32_t layer,
                           std::uint32_t step, std::uint32_t row, std::uintptr_t stream) {
    const RowsOf rows(x, y);
    dropout(rows.dtype, rows.call, p, {seed, layer, step, row}, stream_of(stream));
  });
  module.def("copy_rows",
             [](const py::object& x, const py::object& y, const py::object& lengths, std::uintptr_t stream) {
    const RowsOf rows(x, y);
    const void* const data =
        lengths.is_none() ? nullptr : Raw("lengths", lengths).typed("i8").shaped({rows.call.B}).contiguous();
    copy_rows(rows.dtype, rows.call, static_cast<const std::int64_t*>(data), stream_of(stream));
  });
  module.def("add", [](const py::object& to, const py::object& from, std::uintptr_t stream) {
    const Raw a("to", to), b("from", from);
    const Dtype dtype = dtype_of(a);
    std::size_t n = 1;
    for (const std::ptrdiff_t size : a.shape) n *= std::size_t(size);
    if (b.typed(type_name(dtype)).shape != a.shape) throw py::value_error("from: another shape");
    add(dtype, a.contiguous(), b.contiguous(), n, stream_of(stream));
  });
}

}  // namespace fusedstep::python
