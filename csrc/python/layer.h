// A layer over whole sequences: its weights, and what its runs forward and back share. The arrays' shapes are the
// package's own doing; what is checked here keeps a mistake there from becoming a wrong address.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/table.h"
#include "python/arrays.h"
#include "python/pairs.h"
#include "python/record.h"
#include "python/room.h"
#include "python/weights.h"

namespace fusedstep::python {

enum class Tape { none, lean, full };

struct Layer;

// What a backward run needs of a forward one. It refers to the layer, the input, the output and the states before.
struct Run {
  std::shared_ptr<Layer> layer;
  Shape shape;
  py::object x, y, reset;
  std::vector<py::object> state;  // (D, B, P), (D, B, H)
  Noise noise;                    // of the first direction
  // Compact, of each direction; a lean tape has the second states alone.
  std::vector<Room> saved{}, statistics{}, second_states{};
  bool spent = false;

  std::size_t bytes() const {
    std::size_t n = 0;
    for (const auto* rooms : {&saved, &statistics, &second_states})
      for (const Room& room : *rooms) n += room.size();
    return n;
  }
};

// The directions of a layer.
struct Layer : std::enable_shared_from_this<Layer> {
  std::vector<std::unique_ptr<Weights>> directions;
  const CellEntry* cell;
  Dtype dtype;
  std::size_t I, H, P;

  Layer(const std::string& kind, const std::vector<py::dict>& weights);

  std::size_t D() const { return directions.size(); }
  bool projected() const { return P < H; }
  std::size_t width(std::size_t state) const { return state ? H : P; }
  double step_flops(std::size_t B) const {
    return 2.0 * double(D() * B * H * (std::size_t(cell->gates) * (I + P) + (projected() ? P : 0)));
  }

  // The packed weights of each direction, while frozen; a call keeps those it began with.
  struct Snapshot {
    std::vector<py::array> packed;
    Storage storage;
  };
  std::shared_ptr<const Snapshot> snapshot() const;
  void freeze(const std::string& as);
  void unfreeze() { replace(nullptr); }

  // Views of arrays, checked. Steps and rows of (T, B, n) may lie anywhere, the elements of a row side by side.
  Strided strided(const py::object& object, const char* name, std::size_t T, std::size_t B, std::size_t n,
                  Keep& keep) const;
  Array contiguous(const py::object& object, const char* name, std::initializer_list<std::size_t> shape,
                   Keep& keep) const;
  // A direction's part of the i-th state's array, or of its gradient's.
  Array state_of(const py::object& object, const char* name, std::size_t i, std::size_t d, std::size_t B,
                 Keep& keep) const;

  // Sweeps of the directions over a run's x and y, from its state.
  std::vector<Sweep> sweeps(const Run& run, Keep& keep) const;
  // Each sweep's packed weights: the snapshot's, or packed now into `room`.
  std::size_t packed_bytes() const { return (directions[0]->packed_bytes() + 63) / 64 * 64; }
  void give_packed(std::vector<Sweep>& all, const Snapshot* snapshot, char* room) const;

  std::unique_ptr<Run> forward(const py::object& x, const py::object& y, const std::vector<py::object>& state,
                               const std::vector<py::object>& out, const py::object& lengths, const py::object& reset,
                               const Noise& noise, Tape tape);
  // dstate: arrays like the states that hold the gradients of the states after, and then of those before. `gradients`:
  // of each direction the arrays by name.
  void backward(Run& run, const py::object& dy, const std::vector<py::object>& dstate, const py::object& dx,
                const std::vector<py::dict>& gradients, bool add) const;

 private:
  Array checked(const py::object& object, const char* name, std::initializer_list<std::size_t> shape, Keep& keep) const;
  void record(const Recording& recording, Kind kind, std::uint32_t bits, const Shape& shape) const;
  void replace(std::shared_ptr<const Snapshot> snapshot);

  mutable std::mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_;
};

}  // namespace fusedstep::python
