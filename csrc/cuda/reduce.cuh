// The norm of the gradients in the order of core/norm.h, and which of them is not finite: a warp sums a block of a
// tensor, its lanes those of the order; then one block of threads sums the sums.
#pragma once

#include <cuda_runtime.h>

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/norm.h"
#include "cuda/block.cuh"
#include "cuda/device.h"
#include "cuda/formats.cuh"
#include "cuda/tensors.cuh"

namespace fusedstep::ISA {

static_assert(kNormLanes == kWarp);

// The table's arrays: the gradient, and the place of its first sum.
using Gradients = TensorTable<2>;

inline constexpr int kSumThreads = 256, kSumWarps = kSumThreads / int(kWarp);

// Lanes folded in halves: lane 0 has the sum of all.
__device__ inline double fold_lanes(double sum) {
  for (unsigned half = kWarp / 2; half; half /= 2) sum += __shfl_down_sync(0xFFFFFFFF, sum, half);
  return sum;
}

template <class S>
__global__ void __launch_bounds__(kSumThreads)
    square_sums_kernel(const Gradients __grid_constant__ table, bool again, const Report* report) {
  const double scale = again ? report->scale : 1;
  if (again && scale == 1) return;
  unsigned block = blockIdx.x * kSumWarps + threadIdx.x / kWarp;
  if (block >= table.parts()) return;
  const auto& tensor = table.find(block);
  const std::size_t begin = std::size_t(block) * kNormBlock;
  const S* const g = static_cast<const S*>(tensor.arrays[0]) + begin;
  const int size = int(tensor.n - begin < kNormBlock ? tensor.n - begin : kNormBlock);

  const int lane = int(threadIdx.x % kWarp);
  double sum = 0;
  constexpr int kLoads = 8;  // in flight
  int i = lane;
  for (; i + (kLoads - 1) * int(kWarp) < size; i += kLoads * int(kWarp)) {
    S loaded[kLoads];
    for (int k = 0; k < kLoads; ++k) loaded[k] = g[i + k * int(kWarp)];
    for (int k = 0; k < kLoads; ++k) {
      const double x = double(widened(loaded[k])) * scale;
      sum += x * x;
    }
  }
  for (; i < size; i += int(kWarp)) {
    const double x = double(widened(g[i])) * scale;
    sum += x * x;
  }
  sum = fold_lanes(sum);
  if (lane == 0) static_cast<BlockSum*>(tensor.arrays[1])[block] = {sum, std::int64_t(tensor.number)};
}

inline constexpr int kFinishThreads = 512;

struct FinishMemory {
  double sums[4096];
  std::size_t nonfinite[kFinishThreads / kWarp];
};

// The smallest of the warp's, in lane 0.
__device__ inline std::size_t smallest(std::size_t x) {
  for (unsigned half = kWarp / 2; half; half /= 2) {
    const std::size_t other = __shfl_down_sync(0xFFFFFFFF, x, half);
    x = other < x ? other : x;
  }
  return x;
}

__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const BlockSum* sums, std::size_t count, double max_norm, double grad_scale, bool again,
                  Report* report) {
  const double scale = again ? report->scale : 1;
  if (again && scale == 1) return;
  auto& shared = block_memory<FinishMemory>();
  constexpr std::size_t kTile = sizeof shared.sums / sizeof(double);
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double sum = 0;
  std::size_t nonfinite = count;  // the first block that is not
  for (std::size_t begin = 0; begin < count; begin += kTile) {
    const std::size_t size = count - begin < kTile ? count - begin : kTile;
    for (std::size_t i = threadIdx.x; i < size; i += kFinishThreads) {
      const double own = sums[begin + i].sum;
      shared.sums[i] = own;
      if (!(own <= DBL_MAX) && begin + i < nonfinite) nonfinite = begin + i;
    }
    __syncthreads();
    if (warp == 0)
      for (std::size_t i = lane; i < size; i += kWarp) sum += shared.sums[i];
    __syncthreads();
  }
  nonfinite = smallest(nonfinite);
  if (lane == 0) shared.nonfinite[warp] = nonfinite;
  __syncthreads();
  if (warp) return;
  nonfinite = smallest(lane < kFinishThreads / kWarp ? shared.nonfinite[lane] : count);
  sum = fold_lanes(sum);
  if (lane) return;
  const double norm = sqrt(sum) / scale / grad_scale;
  report->norm = norm;
  report->first_nonfinite = nonfinite < count ? sums[nonfinite].number : -1;
  report->applied = nonfinite == count;
  report->multiplier = (max_norm > 0 ? clip_factor(norm, max_norm) : 1) / grad_scale;
  if (!again) report->scale = norm_scale(sum);
}

}  // namespace fusedstep::ISA
