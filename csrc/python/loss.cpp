// Losses: arrays in, one value and the gradient out. What the Python layer has named and checked comes as it is; what
// follows from shapes and dtypes is checked here, before anything is written.
#include "cpu/loss.h"

#include <algorithm>

#include "python/arrays.h"
#include "python/bind.h"
#include "python/operands.h"
#include "python/record.h"

namespace fusedstep::python {
namespace {

// What a sum is divided by: nothing, the elements or the weights of the rows, the weights of the elements, the first
// dimension.
enum class Reduction : int { none, sum, mean, weighted_mean, batch_mean };

std::uint32_t written(const void* grad, const void* values) {
  return (grad ? option::grad : 0) | (values ? option::values : 0);
}

py::object loss_elements(const std::string& name, const std::vector<double>& hyper, const py::object& input,
                         const py::object& target, const py::object& weight, const py::object& pos_weight,
                         int reduction_number, const py::object& grad, const py::object& values) {
  const Recording recording;
  const auto reduction = Reduction(reduction_number);
  Keep keep;
  const Array x = array(input.ptr(), {"input"}, keep);
  check_contiguous(x, {"input"});
  const LossTable& table = loss_table(x.dtype);
  const LossEntry* const entry =
      std::find_if(table.losses, table.losses + table.n_losses, [&](const LossEntry& e) { return e.name == name; });
  if (entry == table.losses + table.n_losses) throw py::key_error("no loss is called " + name);
  const auto shape = shape_vector(x);
  ElementsCall call{};
  call.n = x.size();
  call.input = x.data;
  call.target = operand(target, {"target"}, x.dtype, shape, keep);
  call.weight = operand(weight, {"weight"}, x.dtype, shape, keep);
  call.pos_weight = operand(pos_weight, {"pos_weight"}, x.dtype, shape, keep);
  call.grad = gradient(grad, x, {"out"}, keep);
  check_apart(call.grad, x.bytes(), call.target, x.dtype, "target");
  check_apart(call.grad, x.bytes(), call.weight, x.dtype, "weight");
  check_apart(call.grad, x.bytes(), call.pos_weight, x.dtype, "pos_weight");
  call.values = values_of(values);
  alignas(64) char loss[kLossBytes];
  entry->prepare(hyper.data(), loss);
  double divisor = 1, sum = 0;
  {
    const MaybeReleaseGil release(call.n > kReleaseGil);
    if (reduction == Reduction::mean) divisor = double(call.n);
    if (reduction == Reduction::batch_mean) divisor = x.nd ? double(shape[0]) : 1;
    if (reduction == Reduction::weighted_mean) divisor = sum_of(table, call.weight, call.n);
    call.scale = divisor == 0 ? 0 : 1 / divisor;
    sum = run_elements(*entry, loss, size_of(x.dtype), call, reduction != Reduction::none);
  }
  if (recording) [[unlikely]] {
    const std::size_t read =
        bytes_of(call.target, x.dtype) + bytes_of(call.weight, x.dtype) + bytes_of(call.pos_weight, x.dtype);
    const std::uint32_t weighted = call.weight.data || call.weight.value != 1 ? option::weight : 0;
    recording.add(Kind::loss, entry->name, x.dtype, used(hyper) | weighted | written(call.grad, call.values),
                  {std::int64_t(call.n), std::int64_t(read)});
  }
  if (reduction == Reduction::none) return py::none();
  return py::float_(divisor == 0 ? 0 : sum / divisor);
}

py::object loss_rows(bool softmax, const py::object& input, int axis, const py::object& index,
                     std::int64_t ignore_index, const py::object& probabilities, const py::object& weight,
                     const py::object& sample_weight, double smoothing, double z_loss, int reduction_number,
                     const py::object& grad, const py::object& values) {
  const Recording recording;
  const auto reduction = Reduction(reduction_number);
  Keep keep;
  const Array x = array(input.ptr(), {"input"}, keep);
  check_contiguous(x, {"input"});
  RowsCall call{};
  call.C = std::size_t(x.shape[axis]);
  call.N = call.inner = 1;
  for (int d = 0; d < x.nd; ++d) {
    if (d != axis) call.N *= std::size_t(x.shape[d]);
    if (d > axis) call.inner *= std::size_t(x.shape[d]);
  }
  call.input = x.data;
  call.grad = gradient(grad, x, {"out"}, keep);
  const auto given = [&](const py::object& object, const char* name) -> const void* {
    if (object.is_none()) return nullptr;
    const Array a = array(object.ptr(), {name}, keep);
    check_dtype(a, {name}, x.dtype);
    check_contiguous(a, {name});
    if (call.grad &&
        Extent{static_cast<char*>(call.grad), static_cast<char*>(call.grad) + x.bytes()}.overlaps(extent(a)))
      value_error({"out"}, std::string("expected memory of its own, got an overlap with ") + name);
    return a.data;
  };
  call.probabilities = given(probabilities, "target");
  call.weight = given(weight, "weight");
  call.sample_weight = given(sample_weight, "sample_weight");
  if (!index.is_none()) call.index = static_cast<const std::int64_t*>(py::reinterpret_borrow<py::array>(index).data());
  call.ignore_index = ignore_index;
  call.smoothing = smoothing;
  call.z_loss = z_loss;
  call.values = values_of(values);
  const LossTable& table = loss_table(x.dtype);
  double sum = 0, divisor = 1;
  RowWeights weights{};
  {
    const MaybeReleaseGil release(x.size() > kReleaseGil);
    weights = x.dtype == Dtype::f32 ? weigh_rows<float>(call) : weigh_rows<double>(call);
    if (weights.bad < 0) {
      if (reduction == Reduction::mean) divisor = weights.sum;
      call.scale = divisor == 0 ? 0 : 1 / divisor;
      sum = run_rows(softmax ? table.cross_entropy : table.nll, size_of(x.dtype), call, reduction != Reduction::none);
    }
  }
  if (weights.bad >= 0)
    value_error({"target"}, "expected classes from 0 to " + std::to_string(std::ptrdiff_t(call.C) - 1) +
                                " or ignore_index (" + std::to_string(ignore_index) + "), got " +
                                std::to_string(call.index[weights.bad]) + " in row " + std::to_string(weights.bad));
  if (recording) [[unlikely]] {
    const std::size_t element = size_of(x.dtype);
    const std::size_t read = (call.index ? call.N * sizeof(std::int64_t) : 0) +
                             element * ((call.probabilities ? x.size() : 0) + (call.weight ? call.C : 0) +
                                        (call.sample_weight ? call.N : 0));
    const std::uint32_t bits = (call.weight ? option::weight : 0) | (call.probabilities ? option::probabilities : 0) |
                               (smoothing != 0 ? option::smoothing : 0) | (z_loss != 0 ? option::z_loss : 0);
    recording.add(Kind::loss_rows, softmax ? "cross_entropy" : "nll", x.dtype, bits | written(call.grad, call.values),
                  {std::int64_t(call.N), std::int64_t(call.C), std::int64_t(read)});
  }
  if (reduction == Reduction::none) return py::none();
  return py::float_(divisor == 0 ? 0 : sum / divisor);
}

py::dict losses() {
  py::dict losses;
  const LossTable& table = loss_table(Dtype::f32);
  for (int i = 0; i < table.n_losses; ++i) losses[table.losses[i].name] = table.losses[i].hyper;
  return losses;
}

}  // namespace

void bind_loss(py::module_& module) {
  module.def("losses", &losses);
  module.def("loss_elements", &loss_elements);
  module.def("loss_rows", &loss_rows);
}

}  // namespace fusedstep::python
