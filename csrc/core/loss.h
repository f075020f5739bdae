// The seam between the bindings and the losses of one instruction set and dtype: plain pointers, and one LossTable of
// functions for each dtype. "T" is the dtype's scalar.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace fusedstep {

inline constexpr std::size_t kLossBytes = 64;     // room for any elementwise loss
inline constexpr std::size_t kLossBlock = 4096;   // elements whose loss is one sum, in double, in 32 lanes
inline constexpr std::size_t kChunkBytes = 2048;  // of an array: what a loop works on at a time, in L1

// An array that is read elementwise along with the input, perhaps broadcast to its shape: consecutive dimensions that
// one stride walks through are one. Where `data` is null, every element is `value`.
enum class Element : int { same, int32, int64, byte };  // `same`: T
inline constexpr int kMaxDims = 8;
struct Operand {
  const void* data;
  double value;
  Element element;
  int nd;  // 1 and stride 1: lies as the input does
  std::size_t shape[kMaxDims];
  std::ptrdiff_t stride[kMaxDims];  // in elements; 0 where broadcast
};

// A loss of each element by itself.
struct ElementsCall {
  std::size_t n;
  const void* input;   // (n)
  Operand target;      // as all operands, broadcast to (n)
  Operand weight;      // multiplies loss and gradient
  Operand pos_weight;  // where LossEntry::pos_weight
  double scale;        // multiplies the gradient
  void* grad;          // (n), may be `input`; or null
  bool stream;         // whether it goes past the caches; not where it is `input`
  void* values;        // (n) losses; or null
  double* sums;        // one for each kLossBlock elements; or null
};

struct LossEntry {
  const char* name;
  const char* hyper;  // names of the numbers that `prepare` reads, in order, separated by spaces
  bool pos_weight;
  void (*prepare)(const double* hyper, void* loss);
  // Blocks [begin, end) of kLossBlock elements.
  void (*run)(const void* loss, const ElementsCall& call, std::size_t begin, std::size_t end);
};

// A loss of each row of C classes. Element c of row r = (outer, inner) lies at (outer·C + c)·inner_size + inner.
struct RowsCall {
  std::size_t N, C, inner;
  const void* input;          // (N/inner, C, inner)
  const std::int64_t* index;  // (N) target classes; or null
  std::int64_t ignore_index;
  const void* probabilities;  // as `input`; or null
  const void* weight;         // (C) of the classes; or null
  const void* sample_weight;  // (N) of the rows; or null. A row of weight 0 is left out
  double smoothing, z_loss;
  double scale;  // multiplies the gradient
  void* grad;    // as `input`, may be `input`; or null
  bool stream;   // whether nll's goes past the caches; not where it is `input` or inner ≠ 1
  void* values;  // (N) losses; or null
  double* sums;  // one for each rows_per_sum(C) rows; or null
};
// A function of the shape alone, so that sums are the same for any number of threads.
constexpr std::size_t rows_per_sum(std::size_t C) { return C > 64 ? (C > 2048 ? 1 : 4096 / C) : 64; }

using RowsLoss = void (*)(const RowsCall& call, std::size_t begin, std::size_t end);  // sums [begin, end)

// Custom losses: a straight-line program over slots, run on one chunk after another. A slot is an array of the chunk's
// elements or rows, or a uniform number.
enum class Op : std::uint8_t {
  // of one operand
  copy,
  negative,
  absolute,
  sign,
  sqrt,
  exp,
  log,
  log1p,
  tanh,
  sigmoid,
  decay,              // e^−|a|
  log1p_of_positive,  // of a ≥ 0
  logical_not,
  sum,     // of each row's elements
  expand,  // a row's value to each of its elements
  // of two. Comparisons give 1 or 0, and what is not 0 is true.
  add,
  subtract,
  multiply,
  divide,
  minimum,
  maximum,
  less,
  less_equal,
  equal,
  not_equal,
  logical_and,
  logical_or,
  softplus_of,  // softplus(a) and σ(a) of b = e^−|a|, which both are made of
  sigmoid_of,
  // of three
  where,
  multiply_add,       // a·b + c
  multiply_subtract,  // a·b − c
  subtract_multiply,  // c − a·b
  pair,               // the first of the pairs below
  // of four
  where_less = pair + 24,  // a < b ? c : d
  where_less_equal,
};
inline constexpr int kMaxOutputs = 16;
inline constexpr int kOps = int(Op::where_less_equal) + 1;
constexpr int arity(Op op) { return op < Op::add ? 1 : op < Op::where ? 2 : op < Op::where_less ? 3 : 4; }

// (a ∘ b) • c, each rounded: ∘ of Op::add … divide, then Second. A product that is added to is an fma and no pair.
enum class Second : int { add, subtract, subtract_from, multiply, divide, divide_into };
inline constexpr int kSeconds = int(Second::divide_into) + 1;
constexpr bool is_pair(Op op) { return op >= Op::pair && op < Op::where_less; }
constexpr Op first_of(Op pair) { return Op(int(Op::add) + (int(pair) - int(Op::pair)) / kSeconds); }
constexpr Second second_of(Op pair) { return Second((int(pair) - int(Op::pair)) % kSeconds); }
constexpr bool exists(Op op) {
  return !is_pair(op) || first_of(op) != Op::multiply || second_of(op) >= Second::multiply;
}

struct Instruction {
  Op op;
  bool rows;        // of the rows; otherwise of the elements
  bool uniform[4];  // which operands are numbers
  std::uint16_t to, from[4];
};

struct ExpressionOutput {
  bool rows;
  void* data;         // (n) or (rows), the first one being element or row `first`; or null
  double* sums;       // one for each block; or null
  std::size_t first;  // 0 where `data` holds all
  const Operand* to;  // doubles that are broadcast to the (n) elements, each of which is added to its own; or null
  bool stream;        // whether `data` goes past the caches; not where it is an input, or of the rows
};

// Slots: inputs; uniforms; registers; outputs.
struct ExpressionCall {
  std::size_t n, C;  // elements, and those of a row
  bool by_row;       // chunks are whole rows
  const Instruction* code;
  const Operand* inputs;   // each broadcast to (n)
  const double* uniforms;  // rounded to T
  const ExpressionOutput* outputs;
  int n_code, n_inputs, n_uniforms, n_registers, n_outputs;
};
// Elements of a chunk of whole rows: as many as fit in kChunkBytes, a multiple of 16 where that leaves some.
constexpr std::size_t rows_per_chunk(std::size_t C, std::size_t element) {
  std::size_t rows = C == 0 ? 1 : kChunkBytes / element / C, step = 16;
  while (step > 1 && C % 2 == 0) C /= 2, step /= 2;
  return rows == 0 ? 1 : rows < step ? rows : rows / step * step;
}
// Elements of a block, which has one sum: whole chunks.
constexpr std::size_t expression_block(bool by_row, std::size_t C, std::size_t element) {
  return by_row ? rows_per_chunk(C, element) * C : kLossBlock;
}

struct LossTable {
  const LossEntry* losses;
  int n_losses;
  RowsLoss cross_entropy, nll;
  void (*expression)(const ExpressionCall& call, std::size_t begin, std::size_t end);  // blocks
  // Adds elements [begin, begin + n) to the doubles `to` that are broadcast to all elements, in ascending order.
  void (*add)(const void* from, std::size_t begin, std::size_t n, const Operand& to);
};

const LossTable& loss_table(Dtype dtype);

}  // namespace fusedstep
