// The seam between the bindings of fusedstep._cuda and the kernels: plain pointers and functions that launch. None of
// them allocates, copies to the host or waits; everything happens on the stream that is passed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/table.h"

namespace fusedstep::cuda {

using Stream = void*;  // cudaStream_t

// How a parameter and its gradient are stored. The half formats are computed in float, with states in float.
enum class Format : int { f32, f64, f16, bf16 };

struct DeviceTensor {
  void* p;
  void* g;  // written only where `zero` is asked for
  void* state[kMaxStates];
  float* master;       // what the rule updates in the place of p, or null; half formats alone
  std::size_t n;       // elements
  std::size_t number;  // of the parameter: its place in `steps`, `rules` and the like
};

// What a step leaves in device memory.
struct Report {
  double norm;                   // of the unscaled gradients, before clipping
  std::int64_t first_nonfinite;  // number of the first tensor with a gradient that is not finite, or −1
  std::int64_t applied;          // 1, or 0 where nothing is written
  double multiplier;             // of the gradients: the clip factor over the gradient scale
};

// Sums of squares over blocks of kNormBlock elements, then the report. `sums` has room for every block of every tensor.
// max_norm 0: no clipping.
void norm(Format format, const DeviceTensor* tensors, std::size_t count, double* sums, Stream stream);
void finish_norm(/* to be settled */ double* sums, std::size_t blocks, double max_norm, double grad_scale,
                 Report* report, Stream stream);

// Counts the step and writes the rule of each of these parameters. hyper: device memory, the group's hyperparameters.
void prepare(int rule, Format format, const double* hyper, const std::size_t* numbers, std::size_t count, double* steps,
             void* rules, const Report* report, Stream stream);

// p and the states from sign·multiplier·g; nothing where the report says that the step is not applied. report null:
// `multiplier` counts.
void update(int rule, Format format, const DeviceTensor* tensors, std::size_t count, const void* rules, double sign,
            double multiplier, const Report* report, bool zero, Stream stream);

}  // namespace fusedstep::cuda
