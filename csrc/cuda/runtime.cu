#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/runtime.h"

namespace fusedstep::ISA {
namespace {

constexpr int kWriteThreads = 128;

struct Values {
  double of[kWriteThreads];
  int count;
};

__global__ void __launch_bounds__(kWriteThreads) write_kernel(const Values __grid_constant__ values, double* to) {
  const int i = int(threadIdx.x);
  if (i < values.count) to[i] = values.of[i];
}

}  // namespace

void check_driver() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "no GPU can be used, or no driver for it is installed");
}

void use_gpu(int number) { check(cudaSetDevice(number), "cudaSetDevice"); }

int gpu_of(const void* memory) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes");
  return attributes.device;
}

bool is_captured(Stream stream) {
  auto status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void write(std::span<const double> values, double* to, Stream stream) {
  while (!values.empty()) {
    Values some{};
    some.count = int(std::min(std::size(some.of), values.size()));
    std::copy_n(values.begin(), some.count, some.of);
    launch("write", write_kernel, {.blocks = 1, .threads = kWriteThreads, .stream = stream}, some, to);
    values = values.subspan(std::size_t(some.count));
    to += some.count;
  }
}

}  // namespace fusedstep::ISA
