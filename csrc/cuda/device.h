// The seam between the bindings of fusedstep._cuda and the optimizers' kernels: plain pointers and functions that
// launch. None of them allocates, copies to the host or waits: what they launch follows the order of the stream. They
// throw std::runtime_error where CUDA refuses a launch. Arrays are aligned to their elements.
//
// A step over tensors of any formats:
//
//   where the norm is asked for:  square_sums for each format, finish_norm
//     with a tensor of f64:       both once more, `again`: they return at once where the sums stayed in double's range
//   prepare, update               for each rule, its hyperparameters and format
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/table.h"

namespace fusedstep::cuda {

using Stream = void*;  // cudaStream_t

// How a parameter and its gradient are stored. The half formats are computed in float, with states in float.
enum class Format : int { f32, f64, f16, bf16 };

constexpr std::size_t size_of(Format format) { return format == Format::f64 ? 8 : format == Format::f32 ? 4 : 2; }
constexpr const char* name_of(Format format) {
  constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16"};
  return names[int(format)];
}
constexpr bool is_half(Format format) { return size_of(format) == 2; }
// What updates compute in, and how states are stored.
constexpr Format scalar_of(Format format) { return is_half(format) ? Format::f32 : format; }

struct DeviceTensor {
  void* p;
  void* g;  // written only where `zero` is asked for
  void* state[kMaxStates];
  float* master;            // what the rule updates in the place of p, which is its rounded copy; null: p. Half formats
  std::size_t n;            // elements
  std::size_t number;       // of the parameter: its place in `steps` and `rules`, and its name in the report
  std::size_t first_block;  // of its gradient, among the blocks of kNormBlock elements of all tensors, in order
};

// The sum of a block's squares, and whose it is. Device memory has room for one for each block.
struct BlockSum {
  double sum;
  std::int64_t number;
};

// What a step leaves in device memory.
struct Report {
  double norm;                   // of the unscaled gradients, before clipping
  std::int64_t first_nonfinite;  // number of the first tensor with a gradient that is not finite, or −1
  std::int64_t applied;          // 1, or 0 where nothing is written
  double multiplier;             // of the gradients: the clip factor over the gradient scale
  double scale;                  // at which the squares were summed: 1 but for gradients whose squares leave the range
};

void square_sums(Format format, std::span<const DeviceTensor> tensors, bool again, const Report* report, BlockSum* sums,
                 Stream stream);
// The report of `blocks` sums. max_norm 0: no clipping.
void finish_norm(const BlockSum* sums, std::size_t blocks, double max_norm, double grad_scale, bool again,
                 Report* report, Stream stream);

// The update rules, numbered as the CPU's.
struct RuleInfo {
  const char* name;
  const char* hyper;  // names of the hyperparameters, in order, separated by spaces
  int states;
};
std::span<const RuleInfo> update_rules();

// Counts the step, and writes the rule, of each parameter among `numbers`: number i's are steps[i] and, kRuleBytes
// each, rules[i]. `hyper` is in device memory. Nothing, where the report says that the step is not applied; it may be
// null.
void prepare(int rule, Format format, const double* hyper, std::span<const std::size_t> numbers, double* steps,
             void* rules, const Report* report, Stream stream);

// p and the states from sign·multiplier·g, by each tensor's rule; sets g to zero where asked. Nothing, where the report
// says that the step is not applied. The multiplier is the report's; without one, report null, `multiplier`.
void update(int rule, Format format, std::span<const DeviceTensor> tensors, const void* rules, double sign,
            double multiplier, const Report* report, bool zero, Stream stream);

}  // namespace fusedstep::cuda
