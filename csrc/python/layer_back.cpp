// The way back through a layer's run.
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "python/calls.h"
#include "python/layer.h"

namespace fusedstep::python {
namespace {

// The sweeps back of a run. What the sums over time read is there in compact copies, but for x itself where it lies so.
// The steps are done chunk by chunk; copies, and the gates of a lean tape, are there for a chunk and what it left of an
// unfinished pass.
class Back {
 public:
  Back(const Layer& layer, Run& run, const py::object& dy, const std::vector<py::object>& dstate, const py::object& dx,
       const std::vector<py::dict>& gradients, bool add)
      : layer_(layer),
        shape_(run.shape),
        add_(add),
        lean_(run.saved.empty()),
        all_(layer.sweeps(run, keep_)),
        dx_(dx.is_none() ? Strided{} : layer.strided(dx, "dx", shape_.T, shape_.B, layer.I, keep_)),
        window_(shape_.pairs(), most_rows()),
        columns_bytes_((layer.cell->columns_bytes(layer.H, layer.P) + 63) / 64 * 64),
        weights_(layer.D() * (columns_bytes_ + (lean_ ? layer.packed_bytes() : 0))),
        sums_size_(std::size_t(layer.cell->saved + 2 + layer.cell->peepholes) * layer.H),
        sums_(layer.D() * sums_size_) {
    const Strided dout =
        dy.is_none() ? Strided{} : layer.strided(dy, "dy", shape_.T, shape_.B, layer.D() * layer.P, keep_);
    if (dstate.size() != run.state.size() || gradients.size() != layer.D()) throw py::value_error("dstate, gradients");
    for (std::size_t d = 0; d < layer.D(); ++d) {
      Sweep& sweep = all_[d];
      take_rows(sweep, run, d);
      if (dout.data) sweep.dy = {static_cast<char*>(dout.data) + d * layer.P * element(), dout.step, dout.row};
      for (std::size_t i = 0; i < dstate.size(); ++i)
        sweep.dstate[i] = layer.state_of(dstate[i], "dstate", i, d, shape_.B, keep_).data;
      give_gradients(sweep, d, gradients[d]);
      sweep.sums = sums_.data() + d * sums_size_;
      sweep.columns = weights_.data() + d * columns_bytes_;
    }
  }

  void run() {
    const CellEntry& cell = *layer_.cell;
    const double pair_flops = layer_.step_flops(1) / double(layer_.D());
    {
      const py::gil_scoped_release release;
      if (lean_) layer_.give_packed(all_, nullptr, weights_.data() + layer_.D() * columns_bytes_);
      for (const Sweep& sweep : all_)
        cell.pack_columns(sweep.weights, layer_.H, layer_.P, const_cast<void*>(sweep.columns));
    }
    each_chunk(shape_, [&](std::size_t step, std::size_t last_step, std::size_t due, std::size_t top) {
      const std::size_t base = shape_.start[step], pairs = shape_.start[last_step] - base;
      {
        const py::gil_scoped_release release;
        window_.move(base, top);
        for (const Sweep& sweep : all_) cell.gather(sweep, base, base + pairs);
      }
      if (lean_)
        for (const Sweep& sweep : all_)
          interruptible(pairs, pair_flops, false,
                        [&](std::size_t begin, std::size_t end) { cell.replay(sweep, base + begin, base + end); });
      interruptible(last_step - step, layer_.step_flops(shape_.B), true, [&](std::size_t begin, std::size_t end) {
        cell.sweep_back(all_.data(), int(layer_.D()), step + begin, step + end);
      });
      if (due == top && shape_.pairs() > 0) return;
      for (const Sweep& sweep : all_) {
        const std::size_t passes = std::max<std::size_t>(1, (top - due + kSumPass - 1) / kSumPass);
        interruptible(passes, double(kSumPass) * 2 * pair_flops, true, [&](std::size_t begin, std::size_t end) {
          cell.gradients(sweep, due + begin * kSumPass, std::min(top, due + end * kSumPass), add_);
        });
        if (dx_.data && sweep.dx != dx_.data) {
          const py::gil_scoped_release release;
          cell.scatter(sweep, dx_, layer_.D() > 1, due, top);
        }
      }
    });
  }

 private:
  std::size_t element() const { return size_of(layer_.dtype); }
  // Pairs that a chunk and what was left of a pass have at most.
  std::size_t most_rows() const {
    std::size_t rows = 0;
    each_chunk(shape_, [&](std::size_t step, std::size_t, std::size_t, std::size_t top) {
      rows = std::max(rows, top - shape_.start[step]);
    });
    return rows;
  }
  // Whether an array's rows lie in the order of the pairs.
  bool in_order(const Strided& array) const {
    return shape_.whole && (shape_.T <= 1 || array.step == std::ptrdiff_t(shape_.B) * array.row) && array.row > 0;
  }

  // What has a row for each pair: arrays of the run or of the window.
  void take_rows(Sweep& sweep, const Run& run, std::size_t d) {
    const CellEntry& cell = *layer_.cell;
    const std::size_t I = layer_.I, H = layer_.H, P = layer_.P;
    const auto take = [&](void*& at, std::size_t width) { window_.add(at, width * element()); };
    const bool direct = in_order(sweep.x) && !sweep.reverse;
    sweep.ld_x = direct ? std::size_t(sweep.x.row) : I;
    if (direct)
      sweep.compact_x = sweep.x.data;
    else
      take(sweep.compact_x, I);
    take(sweep.previous_h, P);
    if (cell.two_products) take(sweep.reset_h, H);
    if (cell.peepholes > 0 && run.noise.zoneout[1] > 0) take(sweep.next_c, H);
    if (layer_.projected()) {
      take(sweep.m, H);
      take(sweep.dh, P);
    }
    if (dx_.data) {
      const bool straight = layer_.D() == 1 && in_order(dx_);
      sweep.ld_dx = straight ? std::size_t(dx_.row) : I;
      if (straight)
        sweep.dx = dx_.data;
      else
        take(sweep.dx, I);
    }
    if (lean_) {
      take(sweep.saved, std::size_t(cell.saved) * H);
      take(sweep.statistics, 2 * std::size_t(cell.norms));
    } else {
      sweep.saved = run.saved[d].data();
      sweep.statistics = run.statistics[d].data();
    }
    sweep.states = run.second_states.empty() ? nullptr : run.second_states[d].data();
  }

  void give_gradients(Sweep& sweep, std::size_t d, const py::dict& gradients) {
    const std::size_t GH = std::size_t(layer_.cell->gates) * layer_.H, H = layer_.H;
    const auto gradient = [&](int i, std::initializer_list<std::size_t> shape) -> void* {
      if (!layer_.directions[d]->arrays[i]) return nullptr;
      const Array to = layer_.contiguous(gradients[kWeightNames[i]], kWeightNames[i], shape, keep_);
      check_writeable(to, {kWeightNames[i]});
      return to.data;
    };
    sweep.dweight_ih = gradient(0, {GH, layer_.I});
    sweep.dweight_hh = gradient(1, {GH, layer_.P});
    sweep.dbias_ih = gradient(2, {GH});
    sweep.dbias_hh = gradient(3, {GH});
    sweep.dweight_ch = gradient(4, {std::size_t(layer_.cell->peepholes), H});
    sweep.dweight_hr = gradient(5, {layer_.P, H});
    sweep.dgain_ih = gradient(6, {GH});
    sweep.dgain_hh = gradient(7, {GH});
    sweep.dgain_c = gradient(8, {H});
    sweep.dbias_c = gradient(9, {H});
  }

  const Layer& layer_;
  const Shape& shape_;
  const bool add_, lean_;
  Keep keep_;
  std::vector<Sweep> all_;
  const Strided dx_;
  Window window_;
  const std::size_t columns_bytes_;
  const Room weights_;
  const std::size_t sums_size_;
  std::vector<double> sums_;
};

}  // namespace

void Layer::backward(Run& run, const py::object& dy, const std::vector<py::object>& dstate, const py::object& dx,
                     const std::vector<py::dict>& gradients, bool add) const {
  const Recording recording;
  if (run.spent) throw py::value_error("tape: expected one that no backward call has used, got one that is spent");
  Back back(*this, run, dy, dstate, dx, gradients, add);
  const bool lean = run.saved.empty();
  run.spent = true;  // from here on the gates are overwritten
  back.run();
  run.saved.clear();
  run.statistics.clear();
  run.second_states.clear();
  if (recording) [[unlikely]] {
    const std::uint32_t bits = (lean ? option::lean : 0) | (dx.is_none() ? 0 : option::dx) |
                               (dy.is_none() ? 0 : option::dy) | (add ? option::add : 0);
    record(recording, Kind::sequence_backward, bits, run.shape);
  }
}

}  // namespace fusedstep::python
