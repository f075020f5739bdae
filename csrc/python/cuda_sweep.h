// Recurrent sweeps over device arrays that the package's own Python has made (cuda_raw.h).
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <tuple>
#include <utility>

#include "cuda/recurrence.h"
#include "python/cuda_raw.h"

namespace fusedstep::python {

inline cuda::Stream stream_of(std::uintptr_t pointer) { return reinterpret_cast<cuda::Stream>(pointer); }

inline const cuda::RecurrentEntry& cell_of(const std::string& kind, Dtype dtype) {
  const cuda::RecurrentEntry* const cell = cuda::recurrent(kind, dtype);
  if (!cell) throw py::key_error("no cell is called " + kind);
  return *cell;
}

// A direction of a layer, or a cell's step. What a kernel reads and writes must be there when it runs.
class Sweep {
 public:
  Sweep(const std::string& kind, std::size_t T, std::size_t S, std::size_t B, std::size_t H, bool reverse,
        const py::dict& arrays)
      : arrays_(arrays), dtype_(dtype_in(arrays)), cell_(&cell_of(kind, dtype_)) {
    if (S > T) throw py::value_error("steps: more than there are");
    const CheckedArrays from{arrays_, dtype_};
    if (PyObject* const replayed = from.given("replayed")) {
      const auto [first, count] = py::cast<std::pair<std::size_t, std::size_t>>(py::handle(replayed));
      if (count > S || first > S - count) throw py::value_error("replayed: more steps than there are");
      fill(from, T, S, B, H, count, count);
      r_.replayed = true;
      r_.first = first;
      steps_ = count;
    } else {
      fill(from, T, S, B, H, T, S);
    }
    r_.reverse = reverse;
    if (PyObject* const lengths = from.given("lengths"))
      r_.lengths = static_cast<const std::int64_t*>(Raw("lengths", lengths).typed("i8").shaped({B}).contiguous());
    if (PyObject* const reset = from.given("reset")) {
      const Strided mask = Raw("reset", reset).typed("b1").shaped({T, B}).strided();
      r_.reset = static_cast<const bool*>(mask.data);
      r_.ld_reset[0] = mask.step;
      r_.ld_reset[1] = mask.row;
    }
    if (PyObject* const stays = from.given("stays"))
      r_.stays = static_cast<const std::uint8_t*>(Raw("stays", stays).typed("u1").shaped({S, B, H}).contiguous());
    if (PyObject* const rates = from.given("zoneout"))
      std::tie(r_.zoneout[0], r_.zoneout[1]) = py::cast<std::pair<double, double>>(py::handle(rates));
  }
  Sweep(const std::string& kind, bool single, std::size_t B, std::size_t H, const py::dict& addresses)
      : arrays_(addresses), dtype_(single ? Dtype::f32 : Dtype::f64), cell_(&cell_of(kind, dtype_)) {
    fill(Addresses{arrays_}, 1, 1, B, H, 1, 1);
    if (PyErr_Occurred()) throw py::error_already_set();
  }

  const cuda::Recurrence& recurrence() const { return r_; }
  const char* kind() const { return cell_->name; }
  Dtype dtype() const { return dtype_; }

  void begin(std::uintptr_t stream) const {
    require({"initial_h", "h0", "h1"});
    if (r_.first > 0) require({"y"});
    if (r_.mask) require({"masked0", "masked1"});
    if (cell_->states > 1) require({"initial_c", "c0", "c1"});
    if (cell_->states > 1 && r_.first > 0) require({"states"});
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
    require({"h0", "h1"});
    if (cell_->input_gates > 0) require({"input"});
    if (r_.mask) require({"masked0", "masked1"});
    if (cell_->states > 1) require({"c0", "c1"});
    if (cell_->reset_stage) require({"reset_h"});
  }
  void require_backward() const {
    if (cell_->values > 0) require({"saved"});
    require({"initial_h", "dh", "dinput"});
    if (r_.S > 1) require({"y"});
    if (cell_->states > 1) require({"initial_c", "states", "dc"});
    if (cell_->reset_stage) require({"dlate"});
    if (cell_->reset_stage || cell_->separate) require({"dstate"});
    if (cell_->norms > 0) require({"statistics"});
    if (normalizes_c()) require({"normed_c", "dnormed_c"});
  }
  void require_weights() const { require({"weight_hh"}); }
  // A persistent kernel reads the gradients that W_hh sees row by row.
  void require_rows() const {
    if (r_.replayed) throw py::value_error("replayed: expected steps one by one");
    if (!r_.dstate && r_.dinput.row != std::ptrdiff_t(std::size_t(cell_->gates) * r_.H)) require({"dstate"});
  }

 private:
  static Dtype dtype_in(const py::dict& arrays) {
    for (const char* name : {"weight_hh", "h0", "dh"})
      if (PyObject* const array = PyDict_GetItemString(arrays.ptr(), name)) return dtype_of(Raw(name, array));
    throw py::key_error("h0");
  }
  bool normalizes_c() const { return cell_->norms > 0 && cell_->states > 1; }
  // N steps of the gates, n of internal arrays.
  template <class Source>
  void fill(const Source& from, std::size_t T, std::size_t S, std::size_t B, std::size_t H, std::size_t N,
            std::size_t n) {
    steps_ = S;
    const std::size_t gates = std::size_t(cell_->gates) * H, state_gates = std::size_t(cell_->state_gates) * H,
                      values = std::size_t(cell_->values) * H;
    r_ = {};
    r_.S = S;
    r_.B = B;
    r_.H = H;
    r_.weight_hh = from.whole("weight_hh", {gates, H});
    r_.bias_ih = from.whole("bias_ih", {gates});
    r_.bias_hh = from.whole("bias_hh", {gates});
    r_.weight_ch = from.whole("weight_ch", {std::size_t(cell_->peepholes), H});
    if (cell_->peepholes > 0) require({"weight_ch"});
    r_.gain_ih = from.whole("gain_ih", {gates});
    r_.gain_hh = from.whole("gain_hh", {gates});
    r_.gain_c = from.whole("gain_c", {H});
    r_.bias_c = from.whole("bias_c", {H});
    if (cell_->norms > 0) require({"gain_ih", "gain_hh"});
    if (normalizes_c()) require({"gain_c"});
    constexpr const char* initial[] = {"initial_h", "initial_c"};
    for (int i = 0; i < cell_->states; ++i) std::tie(r_.initial[i], r_.ld_initial[i]) = from.rows(initial[i], {B, H});
    r_.input = from.strided("input", {N, B, gates});
    r_.y = from.strided("y", {T, B, H});
    r_.h[0] = from.whole("h0", {B, H});
    r_.h[1] = from.whole("h1", {B, H});
    r_.c[0] = from.whole("c0", {B, H});
    r_.c[1] = from.whole("c1", {B, H});
    r_.mask = from.whole("mask", {B, H});
    r_.masked[0] = from.whole("masked0", {B, H});
    r_.masked[1] = from.whole("masked1", {B, H});
    r_.hidden = from.whole("hidden", {B, state_gates});
    r_.reset_h = from.whole("reset_h", {B, H});
    r_.late = from.whole("late", {B, H});
    r_.saved = from.whole("saved", {n, B, values});
    r_.states = from.whole("states", {S, B, H});
    r_.statistics = from.whole("statistics", {n, B, 2 * std::size_t(cell_->norms)});
    r_.dy = from.strided("dy", {T, B, H});
    r_.dh = from.whole("dh", {B, H});
    r_.dc = from.whole("dc", {B, H});
    r_.through = from.whole("through", {B, H});
    r_.dinput = from.strided("dinput", {N, B, gates});
    r_.dstate = from.whole("dstate", {n, B, state_gates});
    r_.dlate = from.whole("dlate", {n, B, H});
    r_.dreset_h = from.whole("dreset_h", {B, H});
    r_.previous_h = from.whole("previous_h", {n, B, H});
    r_.previous_c = from.whole("previous_c", {n, B, H});
    r_.next_c = from.whole("next_c", {n, B, H});
    r_.all_reset_h = from.whole("all_reset_h", {n, B, H});
    r_.m = from.whole("m", {n, B, H});
    r_.normed_c = from.whole("normed_c", {n, B, H});
    r_.dnormed_c = from.whole("dnormed_c", {n, B, H});
  }
  void require(std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      PyObject* const item = PyDict_GetItemString(arrays_.ptr(), name);
      if (!item || item == Py_None) throw py::key_error(name);
    }
  }
  void run(void (*kernel)(const cuda::Recurrence&, std::size_t, cuda::Stream), std::size_t step,
           std::uintptr_t stream) const {
    if (!kernel) throw py::value_error(std::string(cell_->name) + " has one product");
    if (step < r_.first || step - r_.first >= steps_) throw py::value_error("step");
    kernel(r_, step, stream_of(stream));
  }

  const py::dict arrays_;  // keeps them alive
  const Dtype dtype_;
  const cuda::RecurrentEntry* const cell_;
  cuda::Recurrence r_;
  std::size_t steps_ = 0;  // that may be taken, from r_.first on
};

}  // namespace fusedstep::python
