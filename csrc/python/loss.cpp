// Losses: arrays in, one value and the gradient out. What the Python layer has named and checked comes as it is; what
// follows from shapes and dtypes is checked here, before anything is written.
#include "cpu/loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "python/arrays.h"
#include "python/bind.h"

namespace fusedstep::python {
namespace {

constexpr std::size_t kReleaseGil = 4096;                                  // elements
constexpr int kInt32 = 5, kLong = 7, kLongLong = 9, kBool = 0, kByte = 2;  // NPY_INT, …, NPY_BOOL, NPY_UBYTE

std::string shape_of(const std::vector<Py_ssize_t>& shape) { return shape_text(int(shape.size()), shape.data()); }

// A number, or an array that is broadcast to `shape`.
Operand operand(const py::object& object, const Name& name, Dtype dtype, const std::vector<Py_ssize_t>& shape,
                Keep& keep) {
  Operand result{};
  if (PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr())) {
    result.value = object.cast<double>();
    return result;
  }
  py::object held = object;
  if (!is_ndarray(object.ptr())) {
    held = py::module_::import("fusedstep._array").attr("view")(object, name.text());
    keep.push_back(held);
  }
  const auto array = py::reinterpret_borrow<py::array>(held);
  const int number = array.dtype().num();
  const bool native = array.dtype().byteorder() == '=' || array.dtype().byteorder() == '|';
  const auto element = [&]() -> std::optional<Element> {
    if (!native) return {};
    if (number == numpy_dtype(dtype).num()) return Element::same;
    if (number == kInt32) return Element::int32;
    if ((number == kLong || number == kLongLong) && array.itemsize() == 8) return Element::int64;
    if (number == kBool || number == kByte) return Element::byte;
    return {};
  }();
  if (!element)
    type_error(name, std::string("expected dtype ") + name_of(dtype) + ", int32, int64, uint8 or bool, got " +
                         py::str(array.dtype()).cast<std::string>());
  result.element = *element;
  result.data = array.data();
  const auto misfit = [&] {
    value_error(name, "expected a shape that broadcasts to " + shape_of(shape) + ", got " +
                          shape_text(int(array.ndim()), array.shape()));
  };
  const int nd = int(shape.size()), extra = nd - int(array.ndim());
  if (extra < 0) misfit();
  // From the last dimension on, joining each with the one before it where one stride serves both.
  std::size_t sizes[kMaxDims];
  std::ptrdiff_t strides[kMaxDims];
  int n = 0;
  for (int d = nd - 1; d >= 0; --d) {
    const Py_ssize_t size = shape[std::size_t(d)], own = d < extra ? 1 : array.shape(d - extra);
    if (own != size && own != 1) misfit();
    if (size == 1) continue;
    const Py_ssize_t bytes = own == 1 ? 0 : array.strides(d - extra);
    if (bytes % array.itemsize() != 0) value_error(name, "expected strides that are multiples of an element");
    const std::ptrdiff_t stride = bytes / array.itemsize();
    if (n && stride == strides[n - 1] * std::ptrdiff_t(sizes[n - 1])) {
      sizes[n - 1] *= std::size_t(size);
    } else if (n == kMaxDims) {
      value_error(name, "expected at most 8 dimensions that do not lie one behind the other");
    } else {
      sizes[n] = std::size_t(size);
      strides[n++] = stride;
    }
  }
  if (n == 0) sizes[n] = 1, strides[n++] = 1;
  result.nd = n;
  for (int d = 0; d < n; ++d) {
    result.shape[d] = sizes[n - 1 - d];
    result.stride[d] = strides[n - 1 - d];
  }
  return result;
}

std::vector<Py_ssize_t> shape_vector(const Array& a) { return {a.shape, a.shape + a.nd}; }

// Where a gradient goes; it may be the input itself, and shares no memory with what else is read.
void* gradient(const py::object& grad, const Array& input, const Name& name, Keep& keep) {
  if (grad.is_none()) return nullptr;
  const Array a = array(grad.ptr(), name, keep);
  check_dtype(a, name, input.dtype);
  check_same_shape(a, name, input);
  check_contiguous(a, name);
  check_writeable(a, name);
  if (a.data != input.data) check_no_overlap(a, name, input, {"input"});
  return a.data;
}
void check_apart(const void* grad, std::size_t bytes, const Operand& operand, Dtype dtype, const char* name) {
  if (!grad || !operand.data) return;
  const std::ptrdiff_t size = operand.element == Element::same    ? std::ptrdiff_t(size_of(dtype))
                              : operand.element == Element::int32 ? 4
                              : operand.element == Element::int64 ? 8
                                                                  : 1;
  const char *first = static_cast<const char*>(operand.data), *last = first;
  for (int d = 0; d < operand.nd; ++d)
    (operand.stride[d] < 0 ? first : last) += size * operand.stride[d] * std::ptrdiff_t(operand.shape[d] - 1);
  const char* const out = static_cast<const char*>(grad);
  if (Extent{first, last + size}.overlaps({out, out + bytes}))
    value_error({"out"}, std::string("expected memory of its own, got an overlap with ") + name);
}

void* values_of(const py::object& values) {
  return values.is_none() ? nullptr : py::reinterpret_borrow<py::array>(values).mutable_data();
}

// Σ of the losses, and Σ of the weights where `mean_weight` is wanted: (sum, Σ weight). The gradient is scaled by
// 1/Σ weight for "mean of weights", 1/n for "mean".
enum class Reduction : int { none, sum, mean, weighted_mean, batch_mean };

py::object loss_elements(const std::string& name, const std::vector<double>& hyper, const py::object& input,
                         const py::object& target, const py::object& weight, const py::object& pos_weight,
                         int reduction_number, const py::object& grad, const py::object& values) {
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
    sum = run_elements(*entry, loss, call, reduction != Reduction::none);
  }
  if (reduction == Reduction::none) return py::none();
  return py::float_(divisor == 0 ? 0 : sum / divisor);
}

py::object loss_rows(bool softmax, const py::object& input, int axis, const py::object& index,
                     std::int64_t ignore_index, const py::object& probabilities, const py::object& weight,
                     const py::object& sample_weight, double smoothing, double z_loss, int reduction_number,
                     const py::object& grad, const py::object& values) {
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
      sum = run_rows(softmax ? table.cross_entropy : table.nll, call, reduction != Reduction::none);
    }
  }
  if (weights.bad >= 0)
    value_error({"target"}, "expected classes from 0 to " + std::to_string(std::ptrdiff_t(call.C) - 1) +
                                " or ignore_index (" + std::to_string(ignore_index) + "), got " +
                                std::to_string(call.index[weights.bad]) + " in row " + std::to_string(weights.bad));
  if (reduction == Reduction::none) return py::none();
  return py::float_(divisor == 0 ? 0 : sum / divisor);
}

constexpr const char* kOpNames[] = {"copy",
                                    "negative",
                                    "absolute",
                                    "sign",
                                    "sqrt",
                                    "exp",
                                    "log",
                                    "log1p",
                                    "tanh",
                                    "sigmoid",
                                    "softplus",
                                    "not",
                                    "sum",
                                    "expand",
                                    "add",
                                    "subtract",
                                    "multiply",
                                    "divide",
                                    "minimum",
                                    "maximum",
                                    "less",
                                    "less_equal",
                                    "equal",
                                    "not_equal",
                                    "and",
                                    "or",
                                    "where",
                                    "multiply_add",
                                    "multiply_subtract",
                                    "subtract_multiply"};
static_assert(std::size(kOpNames) == kOps);

Op op_of(const std::string& name) {
  const auto found = std::find(std::begin(kOpNames), std::end(kOpNames), name);
  if (found == std::end(kOpNames)) throw py::key_error("no operation is called " + name);
  return Op(found - std::begin(kOpNames));
}

// A custom loss, compiled. Slots are numbered as ExpressionCall has them.
class Expression {
 public:
  using Row = std::tuple<std::string, bool, int, std::vector<int>>;  // op, of the rows, to, from

  Expression(const std::vector<Row>& code, int inputs, int uniforms, int registers,
             const std::vector<bool>& outputs_of_rows, bool by_row)
      : inputs_(inputs),
        uniforms_(uniforms),
        registers_(registers),
        outputs_of_rows_(outputs_of_rows),
        by_row_(by_row) {
    const int first_uniform = inputs, slots = first_uniform + uniforms + registers + int(outputs_of_rows.size());
    if (outputs_of_rows.size() > std::size_t(kMaxOutputs) || slots > 1 << 15)
      throw py::value_error("f: expected a smaller function: it takes " + std::to_string(slots) + " values at once");
    for (const auto& [name, rows, to, from] : code) {
      const Op op = op_of(name);
      if (int(from.size()) != arity(op)) throw py::value_error(name + ": wrong number of operands");
      Instruction in{op, rows, {}, std::uint16_t(to), {}};
      for (std::size_t i = 0; i < from.size(); ++i) {
        if (from[i] < 0 || from[i] >= slots) throw py::value_error(name + ": no such slot");
        in.from[i] = std::uint16_t(from[i]);
        in.uniform[i] = from[i] >= first_uniform && from[i] < first_uniform + uniforms;
      }
      if (to < first_uniform + uniforms || to >= slots) throw py::value_error(name + ": no such slot");
      if (op != Op::copy && std::all_of(in.uniform, in.uniform + arity(op), [](bool u) { return u; }))
        throw py::value_error(name + ": every operand is uniform");
      code_.push_back(in);
    }
  }

  // `input` gives shape and dtype. `inputs`, by slot: numbers, and arrays that broadcast to it. `outputs`:
  // an array, True for a sum, or both. Returns the sums.
  py::list run(const py::object& input, const std::vector<py::object>& inputs, const std::vector<std::string>& names,
               const std::vector<double>& uniforms, const std::vector<std::tuple<py::object, bool>>& outputs,
               const py::object& grad) const {
    Keep keep;
    const Array x = array(input.ptr(), {"pred"}, keep);
    check_contiguous(x, {"pred"});
    if (by_row_ && x.nd == 0) value_error({"pred"}, "expected at least one dimension for a sum over the last axis");
    const auto shape = shape_vector(x);
    if (int(inputs.size()) != inputs_ || names.size() != inputs.size() || int(uniforms.size()) != uniforms_ ||
        outputs.size() != outputs_of_rows_.size())
      throw py::value_error("wrong number of operands");
    std::vector<Operand> operands;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      operands.push_back(operand(inputs[i], {names[i].c_str()}, x.dtype, shape, keep));
    const void* const out = gradient(grad, x, {"out"}, keep);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (operands[i].data != x.data || operands[i].nd != 1 || operands[i].stride[0] != 1)
        check_apart(out, x.bytes(), operands[i], x.dtype, names[i].c_str());
    ExpressionOutput wanted[kMaxOutputs];
    double sums[kMaxOutputs] = {};
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const auto& [to, sum] = outputs[i];
      wanted[i] = {outputs_of_rows_[i], values_of(to), sum ? sums + i : nullptr};
    }
    const ExpressionCall call{.n = x.size(),
                              .C = by_row_ ? std::size_t(shape.back()) : 1,
                              .by_row = by_row_,
                              .code = code_.data(),
                              .inputs = operands.data(),
                              .uniforms = uniforms.data(),
                              .outputs = wanted,
                              .n_code = int(code_.size()),
                              .n_inputs = inputs_,
                              .n_uniforms = uniforms_,
                              .n_registers = registers_,
                              .n_outputs = int(outputs.size())};
    if (call.n) {
      const MaybeReleaseGil release(call.n > kReleaseGil);
      run_expression(loss_table(x.dtype), size_of(x.dtype), call);
    }
    py::list result;
    for (std::size_t i = 0; i < outputs.size(); ++i)
      result.append(wanted[i].sums ? py::object(py::float_(sums[i])) : py::none());
    return result;
  }

 private:
  std::vector<Instruction> code_;
  const int inputs_, uniforms_, registers_;
  const std::vector<bool> outputs_of_rows_;
  const bool by_row_;
};

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
  py::class_<Expression>(module, "Expression", py::is_final())
      .def(py::init<const std::vector<Expression::Row>&, int, int, int, const std::vector<bool>&, bool>())
      .def("run", &Expression::run);
}

}  // namespace fusedstep::python
