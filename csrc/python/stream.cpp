// Streams: layers one step at a time, over the cells' frozen steps, or sweeps of one step where a cell has none.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "core/table.h"
#include "cpu/threads.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/fastcall.h"
#include "python/record.h"
#include "python/weights.h"

namespace fusedstep::python {
namespace {

// Layers over one step at a time, with packed weights and a state of its own.
class Stream {
 public:
  Stream(const std::string& kind, const std::vector<py::dict>& layers, std::size_t batch, int threads,
         const std::string& as, const Noise& noise)
      : batch_(batch), threads_(threads), order_(batch), lengths_(batch, 1), start_{0, batch} {
    for (const py::dict& weights : layers) {
      layers_.push_back(std::make_unique<Weights>(kind, weights));
      const Weights& w = *layers_.back();
      storage_ = w.storage_of(as);
      packed_.push_back(w.packed(storage_));
      if (layers_.size() > 1 &&
          (w.I != layers_[0]->P || w.H != layers_[0]->H || w.P != layers_[0]->P || w.dtype != layers_[0]->dtype))
        throw py::value_error("expected layers that follow each other");
    }
    const Weights& w = *layers_.at(0);
    for (int i = 0; i < w.cell->states; ++i)
      state_.push_back(zeros({Py_ssize_t(layers_.size()), Py_ssize_t(batch), Py_ssize_t(i ? w.H : w.P)}, w.dtype));
    std::iota(order_.begin(), order_.end(), 0);
    y_.resize(batch * w.P * size_of(w.dtype));
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Weights& layer = *layers_[i];
      Sweep sweep{};
      sweep.T = 1;
      sweep.B = batch;
      sweep.I = layer.I;
      sweep.H = layer.H;
      sweep.P = layer.P;
      sweep.order = order_.data();
      sweep.lengths = lengths_.data();
      sweep.start = start_.data();
      sweep.noise = noise;
      sweep.weights = layer.pointers(packed_[i].data(), storage_);
      sweep.y = {y_.data(), 0, std::ptrdiff_t(layer.P)};
      for (std::size_t j = 0; j < state_.size(); ++j) {
        sweep.out[j] = state_[j].mutable_data(Py_ssize_t(i));
        sweep.state[j] = sweep.out[j];
      }
      sweeps_.push_back(sweep);
    }
  }

  py::list state() const { return py::cast(state_); }

  // (x, out)
  py::object step(PyObject* const* args) {
    const Recording recording;
    const Weights& w = *layers_[0];
    Keep keep;
    const Array x = array(args[0], {"x"}, keep);
    const bool vector = x.nd == 1 && batch_ == 1;
    check_dtype(x, {"x"}, w.dtype);
    if (vector)
      check_shape(x, {"x"}, {Py_ssize_t(w.I)});
    else
      check_shape(x, {"x"}, {Py_ssize_t(batch_), Py_ssize_t(w.I)});
    check_contiguous(x, {"x"});
    const std::size_t bytes = batch_ * w.P * size_of(w.dtype);
    py::object result = py::reinterpret_borrow<py::object>(args[1]);
    char* to;
    if (result.is_none()) {
      std::vector<Py_ssize_t> shape{Py_ssize_t(batch_), Py_ssize_t(w.P)};
      if (vector) shape.erase(shape.begin());
      py::array made(numpy_dtype(w.dtype), shape);
      to = static_cast<char*>(made.mutable_data());
      result = std::move(made);
    } else {
      const Array out = array(args[1], {"out"}, keep);
      check_dtype(out, {"out"}, w.dtype);
      if (vector)
        check_shape(out, {"out"}, {Py_ssize_t(w.P)});
      else
        check_shape(out, {"out"}, {Py_ssize_t(batch_), Py_ssize_t(w.P)});
      check_contiguous(out, {"out"});
      check_writeable(out, {"out"});
      check_no_overlap(out, {"out"}, x, {"x"});
      for (py::array& state : state_) check_no_overlap(out, {"out"}, array(state.ptr(), {"state"}, keep), {"state"});
      to = out.data;
    }
    {
      const ThreadLimit limit(threads_);
      const MaybeReleaseGil release(work() > kLongProduct);
      const void* from = x.data;
      for (std::size_t i = 0; i < layers_.size(); ++i) from = advance(i, from);
      std::copy_n(static_cast<const char*>(from), bytes, to);
    }
    if (recording) [[unlikely]] {
      const std::uint32_t bits = (w.has_bias() ? option::bias : 0) | std::uint32_t(storage_) << option::storage;
      recording.add(Kind::stream, w.cell->name, w.dtype, option::frozen | bits,
                    {std::int64_t(batch_), std::int64_t(w.I), std::int64_t(w.H), std::int64_t(w.P),
                     std::int64_t(layers_.size())});
    }
    return result;
  }

 private:
  // Moves layer i's state by one step from the input x; returns its h.
  const void* advance(std::size_t i, const void* x) {
    Sweep& sweep = sweeps_[i];
    const CellEntry& cell = *layers_[i]->cell;
    if (!cell.forward || sweep.weights.weight_hr) {
      sweep.x = {const_cast<void*>(x), 0, std::ptrdiff_t(sweep.I)};
      cell.sweep(&sweep, 1, 0, 1);
      return sweep.out[0];
    }
    CellForward call{};
    call.B = batch_;
    call.I = call.ld_x = sweep.I;
    call.H = sweep.H;
    call.weights = sweep.weights;
    call.x = x;
    for (int j = 0; j < cell.states; ++j) {
      call.state[j] = call.out[j] = sweep.out[j];
      call.ld_state[j] = sweep.H;
    }
    std::copy(sweep.noise.zoneout, sweep.noise.zoneout + 2, call.zoneout);
    cell.forward(call);
    return call.out[0];
  }
  double work() const {
    double sum = 0;
    for (const auto& w : layers_) sum += double(batch_) * double(w->H) * double(w->I + w->P) * w->cell->gates;
    return sum;
  }

  const std::size_t batch_;
  const int threads_;
  Storage storage_ = Storage::same;
  std::vector<std::unique_ptr<Weights>> layers_;
  std::vector<py::array> packed_, state_;
  std::vector<std::int64_t> order_, lengths_;
  std::vector<std::size_t> start_;
  std::vector<char> y_;
  std::vector<Sweep> sweeps_;  // of one step, one for each layer
};

}  // namespace

void bind_stream(py::module_& module) {
  py::class_<Stream>(module, "Stream", py::is_final())
      .def(py::init<const std::string&, const std::vector<py::dict>&, std::size_t, int, const std::string&,
                    const Noise&>())
      .def_property_readonly("state", &Stream::state)
      .def("stepper", [](const py::object& self) { return fast_method<Stream, 2, &Stream::step>(self); });
}

}  // namespace fusedstep::python
