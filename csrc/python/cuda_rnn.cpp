// Recurrent sweeps on CUDA, and what sequences need beside them: device arrays in, launches out.
#include <optional>

#include "python/cuda_bind.h"
#include "python/cuda_sweep.h"
#include "python/frozen.h"

namespace fusedstep::python {
namespace {

using namespace cuda;
using namespace py::literals;

// Without arguments of a device, the current one counts.
using OfDevice = std::optional<std::pair<int, std::size_t>>;
Multiprocessors device_of(const OfDevice& given) {
  return given ? Multiprocessors{given->first, given->second} : multiprocessors();
}

bool persistent_fits(const std::string& kind, bool single, std::size_t B, std::size_t H, int n, bool backward,
                     const OfDevice& device) {
  const PersistentEntry* const entry = persistent(kind, single ? Dtype::f32 : Dtype::f64);
  return entry && entry->fits(B, H, n, backward, device_of(device));
}

void persistent_sweep(const std::vector<const Sweep*>& sweeps, bool backward, const py::object& arrived,
                      std::uintptr_t stream, const OfDevice& device) {
  if (sweeps.empty() || sweeps.size() > 2) throw py::value_error("expected 1 or 2 sweeps");
  const Sweep& first = *sweeps[0];
  const PersistentEntry* const entry = persistent(first.kind(), first.dtype());
  if (!entry) throw py::value_error("no persistent kernel");
  std::vector<Recurrence> all;
  for (const Sweep* sweep : sweeps) {
    backward ? sweep->require_backward() : sweep->require_forward();
    sweep->require_weights();
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

Noise noise_of(const py::tuple& fields) {
  Noise noise{};
  const auto zoneout = py::cast<std::pair<double, double>>(fields[1]);
  noise.recurrent = py::cast<double>(fields[0]);
  noise.zoneout[0] = zoneout.first;
  noise.zoneout[1] = zoneout.second;
  noise.drawn = py::cast<bool>(fields[2]);
  noise.seed = py::cast<std::uint64_t>(fields[3]);
  noise.stream = py::cast<std::uint32_t>(fields[4]);
  noise.step = py::cast<std::uint32_t>(fields[5]);
  noise.row = py::cast<std::uint32_t>(fields[6]);
  return noise;
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

const std::int64_t* lengths_of(const py::object& lengths, std::size_t B) {
  if (lengths.is_none()) return nullptr;
  return static_cast<const std::int64_t*>(Raw("lengths", lengths).typed("i8").shaped({B}).contiguous());
}

// Steps of x (T, B, n) as a sweep of S steps takes them, and their compact array.
struct TakenOf {
  TakenCall call;
  Dtype dtype;

  TakenOf(const py::object& x, const py::object& compact, const py::object& lengths, std::size_t S, std::size_t first,
          bool reverse) {
    const Raw all("x", x), own("compact", compact);
    dtype = dtype_of(all);
    if (all.shape.size() != 3 || own.shape.size() != 3) throw py::value_error("x: expected three dimensions");
    const std::size_t count = std::size_t(own.shape[0]), B = std::size_t(all.shape[1]), n = std::size_t(all.shape[2]);
    own.typed(type_name(dtype)).shaped({count, B, n});
    if (S > std::size_t(all.shape[0]) || count > S || first > S - count)
      throw py::value_error("steps: more than there are");
    call = {.rows = {.x = all.strided(), .y = own.strided(), .T = count, .B = B, .n = n},
            .lengths = lengths_of(lengths, B),
            .S = S,
            .first = first,
            .reverse = reverse};
  }
};

py::dict cells() {
  py::dict all;
  for (const char* name : recurrent_names()) {
    const RecurrentEntry& cell = cell_of(name, Dtype::f32);
    py::list peepholes;
    for (int i = 0; i < cell.peepholes; ++i)
      peepholes.append(py::make_tuple(cell.peephole_gate[i], cell.peephole_sees_next[i]));
    const std::vector<int> state_slots(cell.state_slot, cell.state_slot + (cell.state_slot ? cell.gates : 0));
    all[name] = py::dict("gates"_a = cell.gates, "states"_a = cell.states, "values"_a = cell.values,
                         "norms"_a = cell.norms, "state_gates"_a = cell.state_gates, "separate"_a = cell.separate,
                         "peepholes"_a = peepholes, "state_slots"_a = state_slots);
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
  py::class_<Frozen>(module, "Frozen", py::is_final()).def(py::init<Frozen::Ranges>());
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
  module.def("recurrent_mask", [](const py::tuple& noise, const py::object& mask, std::uintptr_t stream) {
    const Raw to("mask", mask);
    const Dtype dtype = dtype_of(to);
    recurrent_mask(dtype, noise_of(noise), std::size_t(to.shape.at(0)), std::size_t(to.shape.at(1)), to.contiguous(),
                   stream_of(stream));
  });
  module.def("zoneout_mask", [](const py::tuple& noise, const py::object& stays, std::uintptr_t stream) {
    const Raw to("stays", stays);
    auto* const data = static_cast<std::uint8_t*>(to.typed("u1").contiguous());
    zoneout_mask(noise_of(noise), std::size_t(to.shape.at(0)), std::size_t(to.shape.at(1)), std::size_t(to.shape.at(2)),
                 data, stream_of(stream));
  });
  module.def("copy_rows",
             [](const py::object& x, const py::object& y, const py::object& lengths, std::uintptr_t stream) {
    const RowsOf rows(x, y);
    copy_rows(rows.dtype, rows.call, lengths_of(lengths, rows.call.B), stream_of(stream));
  });
  module.def("take_steps", [](const py::object& x, const py::object& compact, const py::object& lengths, std::size_t S,
                              std::size_t first, bool reverse, std::uintptr_t stream) {
    const TakenOf taken(x, compact, lengths, S, first, reverse);
    take_steps(taken.dtype, taken.call, stream_of(stream));
  });
  module.def("give_steps", [](const py::object& x, const py::object& compact, const py::object& lengths, std::size_t S,
                              std::size_t first, bool reverse, bool add, std::uintptr_t stream) {
    const TakenOf taken(x, compact, lengths, S, first, reverse);
    give_steps(taken.dtype, taken.call, add, stream_of(stream));
  });
  module.def("quantize",
             [](const py::object& x, const py::object& codes, const py::object& scales, std::uintptr_t stream) {
    const Raw from("x", x);
    const auto rows = std::size_t(from.shape.at(0)), n = std::size_t(from.shape.at(1));
    quantize(static_cast<const float*>(from.typed("f4").contiguous()), rows, n,
             static_cast<float*>(Raw("codes", codes).typed("f4").shaped({rows, n}).contiguous()),
             static_cast<float*>(Raw("scales", scales).typed("f4").shaped({rows}).contiguous()), stream_of(stream));
  });
  module.def("scale", [](const py::object& products, const py::object& of_rows, const py::object& of_columns,
                         std::uintptr_t stream) {
    const Raw to("products", products);
    const auto rows = std::size_t(to.shape.at(0)), n = std::size_t(to.shape.at(1));
    scale(static_cast<float*>(to.typed("f4").contiguous()), rows, n,
          static_cast<const float*>(Raw("of_rows", of_rows).typed("f4").shaped({rows}).contiguous()),
          static_cast<const float*>(Raw("of_columns", of_columns).typed("f4").shaped({n}).contiguous()),
          stream_of(stream));
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
