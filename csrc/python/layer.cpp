// A layer over whole sequences: arrays in, sweeps out. The arrays' shapes are the package's own doing;
// what is checked here keeps a mistake there from becoming a wrong address.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>

#include "core/table.h"
#include "cpu/threads.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/calls.h"
#include "python/record.h"
#include "python/room.h"
#include "python/weights.h"

namespace fusedstep::python {
namespace {

enum class Tape { none, lean, full };

struct Layer;

// Rows of (T, B, …) in the order in which sweeps take them.
struct Shape {
  std::size_t T = 0, B = 0;
  std::vector<std::int64_t> order, lengths;
  std::vector<std::size_t> start;
  bool whole = true;  // every row has length T

  Shape(std::size_t steps, std::size_t rows, const py::object& given) : T(steps), B(rows), order(B), start(T + 1) {
    std::iota(order.begin(), order.end(), 0);
    lengths.assign(B, std::int64_t(T));
    if (!given.is_none()) {
      const auto array = py::cast<py::array_t<std::int64_t, py::array::c_style>>(given);
      if (array.ndim() != 1 || std::size_t(array.shape(0)) != B)
        throw py::value_error("lengths: expected one for each row");
      const std::int64_t* const of = array.data();
      for (std::size_t row = 0; row < B; ++row)
        if (of[row] < 0 || of[row] > std::int64_t(T)) throw py::value_error("lengths: out of range");
      whole = std::all_of(of, of + B, [&](std::int64_t n) { return n == std::int64_t(T); });
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return of[a] > of[b]; });
      for (std::size_t row = 0; row < B; ++row) lengths[row] = of[order[row]];
    }
    std::size_t active = B;
    for (std::size_t step = 0; step < T; ++step) {
      while (active > 0 && lengths[active - 1] <= std::int64_t(step)) --active;
      start[step + 1] = start[step] + active;
    }
  }
  std::size_t pairs() const { return start[T]; }
  std::size_t steps() const { return B ? std::size_t(lengths[0]) : 0; }
};

// What a backward run needs of a forward one. It refers to the layer, the input, the output and the states before.
struct Run {
  std::shared_ptr<Layer> layer;
  Shape shape;
  py::object x, y, reset;
  std::vector<py::object> state;  // (D, B, P), (D, B, H)
  Noise noise;                    // of the first direction
  // Compact, of each direction; a lean tape has the second states alone.
  std::vector<Room> saved, statistics, second_states;
  bool spent = false;

  std::size_t bytes() const {
    std::size_t n = 0;
    for (const auto* rooms : {&saved, &statistics, &second_states})
      for (const Room& room : *rooms) n += room.size();
    return n;
  }
};

// f(step, last step, due, top): chunks of steps step … last-1, from the last one on, of about kChunkPairs each. Then
// the passes of pairs due … top-1 are complete, and their sums due.
template <class F>
void each_chunk(const Shape& shape, F f) {
  constexpr std::size_t kChunkPairs = 4 * kSumPass;
  std::size_t last = shape.steps(), top = shape.pairs();
  do {
    std::size_t step = last;
    while (step > 0 && shape.start[last] - shape.start[step] < kChunkPairs) --step;
    const std::size_t due = step ? std::min(top, (shape.start[step] + kSumPass - 1) / kSumPass * kSumPass) : 0;
    f(step, last, due, top);
    last = step;
    top = due;
  } while (last > 0);
}

// Arrays of a row for each pair, of which those of a window have memory: it begins at the last pair and moves down. An
// array's pointer is what it would be if pair 0 had memory too.
class Window {
 public:
  Window(std::size_t pairs, std::size_t rows) : base_(pairs), rows_(rows) {}
  void add(void*& at, std::size_t row_bytes) { arrays_.push_back({Room(rows_ * row_bytes), row_bytes, &at}); }
  // To pairs from `base` on; the rows up to `end` come along.
  void move(std::size_t base, std::size_t end) {
    for (const auto& [room, row_bytes, at] : arrays_) {
      if (end > base_) std::memmove(room.data() + (base_ - base) * row_bytes, room.data(), (end - base_) * row_bytes);
      *at = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(room.data()) - base * row_bytes);
    }
    base_ = base;
  }

 private:
  struct OfPairs {
    Room room;
    std::size_t row_bytes;
    void** at;
  };
  std::size_t base_;
  const std::size_t rows_;
  std::vector<OfPairs> arrays_;
};

// The directions of a layer.
struct Layer : std::enable_shared_from_this<Layer> {
  std::vector<std::unique_ptr<Weights>> directions;
  const CellEntry* cell;
  Dtype dtype;
  std::size_t I, H, P;

  Layer(const std::string& kind, const std::vector<py::dict>& weights) {
    for (const py::dict& direction : weights) directions.push_back(std::make_unique<Weights>(kind, direction));
    if (directions.empty() || directions.size() > 2) throw py::value_error("expected the weights of 1 or 2 directions");
    const Weights& first = *directions[0];
    for (const auto& w : directions)
      if (w->I != first.I || w->H != first.H || w->P != first.P || w->dtype != first.dtype ||
          bool(w->data(2)) != bool(first.data(2)))
        throw py::value_error("expected directions of one shape and dtype");
    cell = first.cell;
    dtype = first.dtype;
    I = first.I;
    H = first.H;
    P = first.P;
  }

  std::size_t D() const { return directions.size(); }
  bool projected() const { return P < H; }
  double step_flops(std::size_t B) const {
    return 2.0 * double(D() * B * H * (std::size_t(cell->gates) * (I + P) + (projected() ? P : 0)));
  }
  std::size_t width(std::size_t state) const { return state ? H : P; }

  // The packed weights of each direction, while frozen; a call keeps those it began with.
  struct Snapshot {
    std::vector<py::array> packed;
    Storage storage;
  };
  std::shared_ptr<const Snapshot> snapshot() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return snapshot_;
  }
  void freeze(const std::string& as) {
    const Storage storage = directions[0]->storage_of(as);
    std::vector<py::array> packed;
    for (const auto& w : directions) packed.push_back(w->packed(storage));
    replace(std::make_shared<const Snapshot>(Snapshot{std::move(packed), storage}));
  }
  void unfreeze() { replace(nullptr); }

  Array checked(const py::object& object, const char* name, std::initializer_list<std::size_t> shape,
                Keep& keep) const {
    const Array a = array(object.ptr(), {name}, keep);
    check_dtype(a, {name}, dtype);
    bool same = a.nd == int(shape.size());
    for (int i = 0; same && i < a.nd; ++i) same = a.shape[i] == Py_ssize_t(shape.begin()[i]);
    if (!same) throw py::value_error(std::string(name) + ": got shape " + shape_text(a.nd, a.shape));
    return a;
  }
  // Steps and rows of (T, B, n) may lie anywhere, the elements of a row side by side.
  Strided strided(const py::object& object, const char* name, std::size_t T, std::size_t B, std::size_t n,
                  Keep& keep) const {
    const Array a = checked(object, name, {T, B, n}, keep);
    const auto element = std::ptrdiff_t(size_of(dtype));
    if (a.size() && ((n > 1 && a.strides[2] != element) || a.strides[0] % element || a.strides[1] % element))
      throw py::value_error(std::string(name) + ": expected the elements of a row side by side");
    return {a.data, a.strides[0] / element, a.strides[1] / element};
  }
  Array contiguous(const py::object& object, const char* name, std::initializer_list<std::size_t> shape,
                   Keep& keep) const {
    const Array a = checked(object, name, shape, keep);
    check_contiguous(a, {name});
    return a;
  }

  // A direction's part of the i-th state's array, or of its gradient's.
  Array state_of(const py::object& object, const char* name, std::size_t i, std::size_t d, std::size_t B,
                 Keep& keep) const {
    Array whole = contiguous(object, name, {D(), B, width(i)}, keep);
    whole.data += d * B * width(i) * size_of(dtype);
    return whole;
  }

  // Sweeps of the directions over x and y, from `state`.
  std::vector<Sweep> sweeps(const Shape& shape, const py::object& x, const py::object& y, const py::object& reset,
                            const std::vector<py::object>& state, const Noise& noise, Keep& keep) const {
    if (state.size() != std::size_t(cell->states)) throw py::value_error("state: expected an array for each");
    const Strided from = strided(x, "x", shape.T, shape.B, I, keep);
    const Strided to = strided(y, "y", shape.T, shape.B, D() * P, keep);
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
      if (!reset.is_none()) {
        const auto mask = py::cast<py::array>(reset);
        if (mask.ndim() != 2 || std::size_t(mask.shape(0)) != shape.T || std::size_t(mask.shape(1)) != shape.B ||
            !mask.dtype().is(py::dtype::of<bool>()))
          throw py::value_error("reset: expected bool (steps, rows)");
        sweep.reset = static_cast<const bool*>(mask.data());
        sweep.ld_reset[0] = mask.strides(0);
        sweep.ld_reset[1] = mask.strides(1);
      }
      sweep.reverse = d == 1;
      sweep.noise = noise;
      sweep.noise.stream += std::uint32_t(d);
      sweep.weights = directions[d]->pointers(nullptr);
      sweep.x = from;
      sweep.y = {static_cast<char*>(to.data) + d * P * size_of(dtype), to.step, to.row};
      for (std::size_t i = 0; i < state.size(); ++i)
        sweep.state[i] = state_of(state[i], "state", i, d, shape.B, keep).data;
    }
    return all;
  }

  // Each sweep's packed weights: the snapshot's, or packed now into `room`.
  std::size_t packed_bytes() const { return (directions[0]->packed_bytes() + 63) / 64 * 64; }
  void give_packed(std::vector<Sweep>& all, const Snapshot* snapshot, char* room) const {
    for (std::size_t d = 0; d < D(); ++d) {
      void* const to = room + d * packed_bytes();
      if (!snapshot) directions[d]->pack(to);
      all[d].weights.packed = snapshot ? snapshot->packed[d].data() : to;
      all[d].weights.storage = snapshot ? snapshot->storage : Storage::same;
    }
  }

  std::unique_ptr<Run> forward(const py::object& x, const py::object& y, const std::vector<py::object>& state,
                               const std::vector<py::object>& out, const py::object& lengths, const py::object& reset,
                               const Noise& noise, Tape tape) {
    const Recording recording;
    Keep keep;
    const Array input = array(x.ptr(), {"x"}, keep);
    if (input.nd != 3) throw py::value_error("x: got shape " + shape_text(input.nd, input.shape));
    auto run = std::make_unique<Run>(Run{shared_from_this(),
                                         Shape(std::size_t(input.shape[0]), std::size_t(input.shape[1]), lengths),
                                         x,
                                         y,
                                         reset,
                                         state,
                                         noise,
                                         {},
                                         {},
                                         {}});
    const Shape& shape = run->shape;
    std::vector<Sweep> all = sweeps(shape, x, y, reset, state, noise, keep);
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
      if (tape != Tape::none && cell->states > 1) {
        all[d].states = run->second_states.emplace_back(R * H * element).data();
      }
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
    interruptible(std::max<std::size_t>(steps, 1), step_flops(shape.B), false,
                  [&](std::size_t first, std::size_t last) {
      cell->sweep(all.data(), int(D()), first, std::min(last, steps));
      for (Sweep& sweep : all) std::copy(sweep.out, sweep.out + kMaxStates, sweep.state);
    });
    if (recording) [[unlikely]] {
      std::uint32_t bits = tape == Tape::none ? 0 : tape == Tape::lean ? option::tape | option::lean : option::tape;
      if (frozen) bits |= option::frozen | std::uint32_t(frozen->storage) << option::storage;
      record(recording, Kind::sequence, bits, shape);
    }
    if (tape == Tape::none) run.reset();
    return run;
  }

  // dstate: arrays like the states that hold the gradients of the states after, and then of those before. `gradients`:
  // of each direction the arrays by name.
  void backward(Run& run, const py::object& dy, const std::vector<py::object>& dstate, const py::object& dx,
                const std::vector<py::dict>& gradients, bool add) const {
    const Recording recording;
    if (run.spent) throw py::value_error("tape: expected one that no backward call has used, got one that is spent");
    Keep keep;
    const Shape& shape = run.shape;
    const std::size_t R = shape.pairs(), T = shape.T, B = shape.B, element = size_of(dtype);
    std::vector<Sweep> all = sweeps(shape, run.x, run.y, run.reset, run.state, run.noise, keep);
    const Strided dinput = dx.is_none() ? Strided{} : strided(dx, "dx", T, B, I, keep);
    const Strided dout = dy.is_none() ? Strided{} : strided(dy, "dy", T, B, D() * P, keep);
    if (dstate.size() != run.state.size() || gradients.size() != D()) throw py::value_error("dstate, gradients");

    // Compact copies of what the sums over time read, but of x itself where it lies so. The steps are done chunk by
    // chunk; copies, and the gates of a lean tape, are there for a chunk and what it left of an unfinished pass.
    const Sweep& first = all[0];
    const bool in_order = shape.whole && (T <= 1 || first.x.step == std::ptrdiff_t(B) * first.x.row);
    const bool dx_in_order =
        D() == 1 && shape.whole && (T <= 1 || dinput.step == std::ptrdiff_t(B) * dinput.row) && dinput.row > 0;
    const bool keeps_next_c = cell->peepholes > 0 && run.noise.zoneout[1] > 0;
    const bool lean = run.saved.empty();
    std::size_t rows = 0;
    each_chunk(shape, [&](std::size_t step, std::size_t, std::size_t, std::size_t top) {
      rows = std::max(rows, top - shape.start[step]);
    });
    Window window(R, rows);
    const std::size_t columns_bytes = (cell->columns_bytes(H, P) + 63) / 64 * 64;
    const Room weights(D() * (columns_bytes + (lean ? packed_bytes() : 0)));
    const std::size_t sums_size = std::size_t(cell->saved + 2 + cell->peepholes) * H;
    std::vector<double> sums(D() * sums_size);
    for (std::size_t d = 0; d < D(); ++d) {
      Sweep& sweep = all[d];
      const auto take = [&](void*& at, std::size_t width) { window.add(at, width * element); };
      const bool direct = in_order && !sweep.reverse && first.x.row > 0;
      sweep.ld_x = direct ? std::size_t(sweep.x.row) : I;
      if (direct)
        sweep.compact_x = sweep.x.data;
      else
        take(sweep.compact_x, I);
      take(sweep.previous_h, P);
      sweep.sums = sums.data() + d * sums_size;
      if (cell->two_products) take(sweep.reset_h, H);
      if (keeps_next_c) take(sweep.next_c, H);
      if (projected()) {
        take(sweep.m, H);
        take(sweep.dh, P);
      }
      if (dinput.data) {
        sweep.ld_dx = dx_in_order ? std::size_t(dinput.row) : I;
        if (dx_in_order)
          sweep.dx = dinput.data;
        else
          take(sweep.dx, I);
      }
      if (lean) {
        take(sweep.saved, std::size_t(cell->saved) * H);
        take(sweep.statistics, 2 * std::size_t(cell->norms));
      } else {
        sweep.saved = run.saved[d].data();
        sweep.statistics = run.statistics[d].data();
      }
      sweep.states = run.second_states.empty() ? nullptr : run.second_states[d].data();
      if (dout.data) sweep.dy = {static_cast<char*>(dout.data) + d * P * element, dout.step, dout.row};
      for (std::size_t i = 0; i < dstate.size(); ++i)
        sweep.dstate[i] = state_of(dstate[i], "dstate", i, d, B, keep).data;
      const auto gradient = [&](int i, std::initializer_list<std::size_t> shape_of) -> void* {
        if (!directions[d]->arrays[i]) return nullptr;
        const Array to = contiguous(gradients[d][kWeightNames[i]], kWeightNames[i], shape_of, keep);
        check_writeable(to, {kWeightNames[i]});
        return to.data;
      };
      const std::size_t GH = std::size_t(cell->gates) * H;
      sweep.dweight_ih = gradient(0, {GH, I});
      sweep.dweight_hh = gradient(1, {GH, P});
      sweep.dbias_ih = gradient(2, {GH});
      sweep.dbias_hh = gradient(3, {GH});
      sweep.dweight_ch = gradient(4, {std::size_t(cell->peepholes), H});
      sweep.dweight_hr = gradient(5, {P, H});
      sweep.dgain_ih = gradient(6, {GH});
      sweep.dgain_hh = gradient(7, {GH});
      sweep.dgain_c = gradient(8, {H});
      sweep.dbias_c = gradient(9, {H});
      sweep.columns = weights.data() + d * columns_bytes;
    }
    run.spent = true;  // from here on the gates are overwritten

    const double pair_flops = step_flops(1) / double(D());
    {
      const py::gil_scoped_release release;
      if (lean) give_packed(all, nullptr, weights.data() + D() * columns_bytes);
      for (const Sweep& sweep : all) cell->pack_columns(sweep.weights, H, P, const_cast<void*>(sweep.columns));
    }
    each_chunk(shape, [&](std::size_t step, std::size_t last_step, std::size_t due, std::size_t top) {
      const std::size_t base = shape.start[step], pairs = shape.start[last_step] - base;
      {
        const py::gil_scoped_release release;
        window.move(base, top);
        for (const Sweep& sweep : all) cell->gather(sweep, base, base + pairs);
      }
      if (lean)
        for (const Sweep& sweep : all)
          interruptible(pairs, pair_flops, false,
                        [&](std::size_t begin, std::size_t end) { cell->replay(sweep, base + begin, base + end); });
      interruptible(last_step - step, step_flops(B), true, [&](std::size_t begin, std::size_t end) {
        cell->sweep_back(all.data(), int(D()), step + begin, step + end);
      });
      if (due == top && R > 0) return;
      for (const Sweep& sweep : all) {
        const std::size_t passes = std::max<std::size_t>(1, (top - due + kSumPass - 1) / kSumPass);
        interruptible(passes, double(kSumPass) * 2 * pair_flops, true, [&](std::size_t begin, std::size_t end) {
          cell->gradients(sweep, due + begin * kSumPass, std::min(top, due + end * kSumPass), add);
        });
        if (dinput.data && sweep.dx != dinput.data) {
          const py::gil_scoped_release release;
          cell->scatter(sweep, dinput, D() > 1, due, top);
        }
      }
    });
    run.saved.clear();
    run.statistics.clear();
    run.second_states.clear();
    if (recording) [[unlikely]] {
      const std::uint32_t bits = (lean ? option::lean : 0) | (dinput.data ? option::dx : 0) |
                                 (dout.data ? option::dy : 0) | (add ? option::add : 0);
      record(recording, Kind::sequence_backward, bits, shape);
    }
  }

 private:
  [[gnu::noinline, gnu::cold]] void record(const Recording& recording, Kind kind, std::uint32_t bits,
                                           const Shape& shape) const {
    const auto number = [](std::size_t n) { return std::int64_t(n); };
    recording.add(
        kind, cell->name, dtype, bits | (directions[0]->data(2) ? option::bias : 0),
        {number(shape.pairs()), number(shape.steps()), number(shape.B), number(I), number(H), number(P), number(D())});
  }

  void replace(std::shared_ptr<const Snapshot> snapshot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& w : directions) w->set_writeable(!snapshot);
    snapshot_ = std::move(snapshot);
  }

  mutable std::mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_;
};

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
  module.def("dropout", &dropout);
}

}  // namespace fusedstep::python
