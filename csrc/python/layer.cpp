#include "python/layer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "python/bind.h"
#include "python/calls.h"

namespace fusedstep::python {

Layer::Layer(const std::string& kind, const std::vector<py::dict>& weights) {
  for (const py::dict& direction : weights) directions.push_back(std::make_unique<Weights>(kind, direction));
  if (directions.empty() || directions.size() > 2) throw py::value_error("expected the weights of 1 or 2 directions");
  const Weights& first = *directions[0];
  for (const auto& w : directions)
    if (w->I != first.I || w->H != first.H || w->P != first.P || w->dtype != first.dtype ||
        w->has_bias() != first.has_bias())
      throw py::value_error("expected directions of one shape and dtype");
  cell = first.cell;
  dtype = first.dtype;
  I = first.I;
  H = first.H;
  P = first.P;
}

std::shared_ptr<const Layer::Snapshot> Layer::snapshot() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return snapshot_;
}

void Layer::freeze(const std::string& as) {
  const Storage storage = directions[0]->storage_of(as);
  std::vector<py::array> packed;
  for (const auto& w : directions) packed.push_back(w->packed(storage));
  replace(std::make_shared<const Snapshot>(Snapshot{std::move(packed), storage}));
}

void Layer::replace(std::shared_ptr<const Snapshot> snapshot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& w : directions) w->set_writeable(!snapshot);
  snapshot_ = std::move(snapshot);
}

Array Layer::checked(const py::object& object, const char* name, std::initializer_list<std::size_t> shape,
                     Keep& keep) const {
  const Array a = array(object.ptr(), {name}, keep);
  check_dtype(a, {name}, dtype);
  bool same = a.nd == int(shape.size());
  for (int i = 0; same && i < a.nd; ++i) same = a.shape[i] == Py_ssize_t(shape.begin()[i]);
  if (!same) throw py::value_error(std::string(name) + ": got shape " + shape_text(a.nd, a.shape));
  return a;
}

Strided Layer::strided(const py::object& object, const char* name, std::size_t T, std::size_t B, std::size_t n,
                       Keep& keep) const {
  const Array a = checked(object, name, {T, B, n}, keep);
  const auto element = std::ptrdiff_t(size_of(dtype));
  if (a.size() && ((n > 1 && a.strides[2] != element) || a.strides[0] % element || a.strides[1] % element))
    throw py::value_error(std::string(name) + ": expected the elements of a row side by side");
  return {a.data, a.strides[0] / element, a.strides[1] / element};
}

Array Layer::contiguous(const py::object& object, const char* name, std::initializer_list<std::size_t> shape,
                        Keep& keep) const {
  const Array a = checked(object, name, shape, keep);
  check_contiguous(a, {name});
  return a;
}

Array Layer::state_of(const py::object& object, const char* name, std::size_t i, std::size_t d, std::size_t B,
                      Keep& keep) const {
  Array whole = contiguous(object, name, {D(), B, width(i)}, keep);
  whole.data += d * B * width(i) * size_of(dtype);
  return whole;
}

std::vector<Sweep> Layer::sweeps(const Run& run, Keep& keep) const {
  const Shape& shape = run.shape;
  if (run.state.size() != std::size_t(cell->states)) throw py::value_error("state: expected an array for each");
  const Strided from = strided(run.x, "x", shape.T, shape.B, I, keep);
  const Strided to = strided(run.y, "y", shape.T, shape.B, D() * P, keep);
  std::vector<Sweep> all(D());
  for (std::size_t d = 0; d < D(); ++d) {
    Sweep& sweep = all[d];
    sweep = {};
    sweep.T = shape.T;
    sweep.B = shape.B;
    sweep.I = I;
    sweep.H = H;
    sweep.P = P;
    sweep.order = shape.order.data();
    sweep.lengths = shape.lengths.data();
    sweep.start = shape.start.data();
    if (!run.reset.is_none()) {
      const auto mask = py::cast<py::array>(run.reset);
      if (mask.ndim() != 2 || std::size_t(mask.shape(0)) != shape.T || std::size_t(mask.shape(1)) != shape.B ||
          !mask.dtype().is(py::dtype::of<bool>()))
        throw py::value_error("reset: expected bool (steps, rows)");
      sweep.reset = static_cast<const bool*>(mask.data());
      sweep.ld_reset[0] = mask.strides(0);
      sweep.ld_reset[1] = mask.strides(1);
    }
    sweep.reverse = d == 1;
    sweep.noise = run.noise;
    sweep.noise.stream += std::uint32_t(d);
    sweep.weights = directions[d]->pointers(nullptr);
    sweep.x = from;
    sweep.y = {static_cast<char*>(to.data) + d * P * size_of(dtype), to.step, to.row};
    for (std::size_t i = 0; i < run.state.size(); ++i)
      sweep.state[i] = state_of(run.state[i], "state", i, d, shape.B, keep).data;
  }
  return all;
}

void Layer::give_packed(std::vector<Sweep>& all, const Snapshot* snapshot, char* room) const {
  for (std::size_t d = 0; d < D(); ++d) {
    void* const to = room + d * packed_bytes();
    if (!snapshot) directions[d]->pack(to);
    all[d].weights.packed = snapshot ? snapshot->packed[d].data() : to;
    all[d].weights.storage = snapshot ? snapshot->storage : Storage::same;
  }
}

std::unique_ptr<Run> Layer::forward(const py::object& x, const py::object& y, const std::vector<py::object>& state,
                                    const std::vector<py::object>& out, const py::object& lengths,
                                    const py::object& reset, const Noise& noise, Tape tape) {
  const Recording recording;
  Keep keep;
  const Array input = array(x.ptr(), {"x"}, keep);
  if (input.nd != 3) throw py::value_error("x: got shape " + shape_text(input.nd, input.shape));
  auto run = std::make_unique<Run>(Run{shared_from_this(),
                                       Shape(std::size_t(input.shape[0]), std::size_t(input.shape[1]), lengths), x, y,
                                       reset, state, noise});
  const Shape& shape = run->shape;
  std::vector<Sweep> all = sweeps(*run, keep);
  if (out.size() != state.size()) throw py::value_error("out: expected an array for each state");
  const std::size_t R = shape.pairs(), element = size_of(dtype);
  for (std::size_t d = 0; d < D(); ++d) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const Array to = state_of(out[i], "out", i, d, shape.B, keep);
      check_writeable(to, {"out"});
      all[d].out[i] = to.data;
    }
    if (tape == Tape::full) {
      all[d].saved = run->saved.emplace_back(R * std::size_t(cell->saved) * H * element).data();
      run->statistics.emplace_back(R * 2 * std::size_t(cell->norms) * element);
      if (cell->norms) all[d].statistics = run->statistics.back().data();
    }
    if (tape != Tape::none && cell->states > 1) all[d].states = run->second_states.emplace_back(R * H * element).data();
  }
  if (shape.B == 0) return tape == Tape::none ? nullptr : std::move(run);
  const auto frozen = snapshot();
  const Room room(frozen ? 0 : D() * packed_bytes());
  {
    const py::gil_scoped_release release;
    give_packed(all, frozen.get(), room.data());
  }
  // At least one part, also of no steps: it passes the state on.
  const std::size_t steps = shape.steps();
  interruptible(std::max<std::size_t>(steps, 1), step_flops(shape.B), false, [&](std::size_t first, std::size_t last) {
    cell->sweep(all.data(), int(D()), first, std::min(last, steps));
    for (Sweep& sweep : all) std::copy(sweep.out, sweep.out + kMaxCellStates, sweep.state);
  });
  if (recording) [[unlikely]] {
    std::uint32_t bits = tape == Tape::none ? 0 : tape == Tape::lean ? option::tape | option::lean : option::tape;
    if (frozen) bits |= option::frozen | std::uint32_t(frozen->storage) << option::storage;
    record(recording, Kind::sequence, bits, shape);
  }
  if (tape == Tape::none) run.reset();
  return run;
}

[[gnu::noinline, gnu::cold]] void Layer::record(const Recording& recording, Kind kind, std::uint32_t bits,
                                                const Shape& shape) const {
  const auto number = [](std::size_t n) { return std::int64_t(n); };
  recording.add(
      kind, cell->name, dtype, bits | (directions[0]->has_bias() ? option::bias : 0),
      {number(shape.pairs()), number(shape.steps()), number(shape.B), number(I), number(H), number(P), number(D())});
}

void bind_layer(py::module_& module) {
  py::class_<Run>(module, "Run", py::is_final())
      .def_property_readonly("nbytes", &Run::bytes)
      .def_readonly("spent", &Run::spent)
      .def_property_readonly("whole", [](const Run& run) { return run.shape.whole; })
      .def("backward", [](Run& run, const py::object& dy, const std::vector<py::object>& dstate, const py::object& dx,
                          const std::vector<py::dict>& gradients,
                          bool add) { run.layer->backward(run, dy, dstate, dx, gradients, add); });
  py::class_<Layer, std::shared_ptr<Layer>>(module, "Layer", py::is_final())
      .def(py::init<const std::string&, const std::vector<py::dict>&>())
      .def_property_readonly("frozen", [](const Layer& layer) { return layer.snapshot() != nullptr; })
      .def("freeze", &Layer::freeze)
      .def("unfreeze", &Layer::unfreeze)
      .def("forward", [](Layer& layer, const py::object& x, const py::object& y, const std::vector<py::object>& state,
                         const std::vector<py::object>& out, const py::object& lengths, const py::object& reset,
                         const Noise& noise,
                         int tape) { return layer.forward(x, y, state, out, lengths, reset, noise, Tape(tape)); });
  py::class_<Noise>(module, "Noise", py::is_final())
      .def(py::init([](double recurrent, std::array<double, 2> zoneout, bool drawn, std::uint64_t seed,
                       std::uint32_t stream, std::uint32_t step, std::uint32_t row) {
    return Noise{recurrent, {zoneout[0], zoneout[1]}, drawn, seed, stream, step, row};
  }));
}

}  // namespace fusedstep::python
