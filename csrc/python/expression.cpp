// Custom losses: a compiled program and its runs.
#include <algorithm>
#include <iterator>
#include <span>
#include <tuple>

#include "cpu/loss.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/operands.h"
#include "python/record.h"

namespace fusedstep::python {
namespace {

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
                                    "decay",
                                    "log1p_of_positive",
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
                                    "softplus_of",
                                    "sigmoid_of",
                                    "where",
                                    "multiply_add",
                                    "multiply_subtract",
                                    "subtract_multiply"};
static_assert(std::size(kOpNames) == std::size_t(Op::pair));
constexpr const char* kSecondNames[] = {"add", "subtract", "subtract_from", "multiply", "divide", "divide_into"};
static_assert(std::size(kSecondNames) == kSeconds);

std::string name_of(Op op) {
  if (op == Op::where_less) return "where_less";
  if (op == Op::where_less_equal) return "where_less_equal";
  if (!is_pair(op)) return kOpNames[int(op)];
  return std::string(kOpNames[int(first_of(op))]) + "_then_" + kSecondNames[int(second_of(op))];
}

Op op_of(const std::string& name) {
  for (int i = 0; i < kOps; ++i)
    if (exists(Op(i)) && name_of(Op(i)) == name) return Op(i);
  throw py::key_error("no operation is called " + name);
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

  // `input` gives shape and dtype. `inputs`, by slot: numbers, and arrays that broadcast to it. `outputs`: None for
  // nothing but a sum, which is returned; an array to write; or, with "added", an array of doubles that broadcasts to
  // `input`, to which each element is added.
  py::list run(const py::object& input, const std::vector<py::object>& inputs, const std::vector<std::string>& names,
               const std::vector<double>& uniforms, const std::vector<std::tuple<py::object, bool>>& outputs,
               const py::object& grad) const {
    const Recording recording;
    Keep keep;
    const Array x = array(input.ptr(), {"pred"}, keep);
    check_contiguous(x, {"pred"});
    if (by_row_ && x.nd == 0) throw py::value_error("a sum needs an axis");
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
    Operand added[kMaxOutputs];
    double sums[kMaxOutputs] = {};
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const auto& [to, add] = outputs[i];
      wanted[i] = {outputs_of_rows_[i], nullptr, to.is_none() ? sums + i : nullptr, 0, nullptr, false};
      if (!add) {
        wanted[i].data = values_of(to);
      } else {
        if (outputs_of_rows_[i]) throw py::value_error("an output of the rows is not added");
        added[i] = operand(to, {"to"}, Dtype::f64, shape, keep);
        wanted[i].to = added + i;
      }
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
    if (recording) [[unlikely]] {
      std::size_t read = 0, written = 0;
      for (const Operand& input_operand : operands) read += bytes_of(input_operand, x.dtype);
      for (const ExpressionOutput& output : std::span(wanted, outputs.size())) {
        if (output.to) written += 2 * bytes_of(*output.to, Dtype::f64);  // read and written
        if (output.data) written += size_of(x.dtype) * call.n / (output.rows ? std::max<std::size_t>(call.C, 1) : 1);
      }
      recording.add(
          Kind::custom_loss, name_, x.dtype, 0,
          {std::int64_t(call.n), std::int64_t(call.C), std::int64_t(read), std::int64_t(written), flops_, row_flops_});
    }
    py::list result;
    for (std::size_t i = 0; i < outputs.size(); ++i)
      result.append(wanted[i].sums ? py::object(py::float_(sums[i])) : py::none());
    return result;
  }

  // What the profiler calls it, and the FLOPs that an element and a row take.
  void describe(const std::string& name, std::int64_t flops, std::int64_t row_flops) {
    name_ = kept_name(name);
    flops_ = flops;
    row_flops_ = row_flops;
  }
  py::tuple description() const { return py::make_tuple(name_, flops_, row_flops_); }

 private:
  const char* name_ = "custom";
  std::int64_t flops_ = 0, row_flops_ = 0;
  std::vector<Instruction> code_;
  const int inputs_, uniforms_, registers_;
  const std::vector<bool> outputs_of_rows_;
  const bool by_row_;
};

}  // namespace

void bind_expression(py::module_& module) {
  py::class_<Expression>(module, "Expression", py::is_final())
      .def(py::init<const std::vector<Expression::Row>&, int, int, int, const std::vector<bool>&, bool>())
      .def("describe", &Expression::describe)
      .def_property_readonly("description", &Expression::description)
      .def("run", &Expression::run);
}

}  // namespace fusedstep::python
