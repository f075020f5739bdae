// What the bindings need of CUDA's runtime beside the launches of kernels. Errors are std::runtime_error with CUDA's
// text.
#pragma once

#include <cstddef>
#include <span>

#include "cuda/device.h"

namespace fusedstep::cuda {

// Throws where no GPU can be used.
void check_driver();
// Makes a GPU this thread's current one.
void use_gpu(int number);
// The GPU that has this memory.
int gpu_of(const void* memory);
// Whether work sent to this stream is recorded into a graph: then memory that it names must stay.
bool is_captured(Stream stream);

// Copies values to device memory in stream order. They travel as a kernel's parameters: nothing on the host has to
// outlive the call, and a graph replays them as they were.
void write(std::span<const double> values, double* to, Stream stream);

}  // namespace fusedstep::cuda
