// Kernels for the tests of the stand-in itself: what it must run as the device does, and mistakes that it must find.
// Each takes n floats and a few counters, and is called by name.
#include <cuda_runtime.h>

#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "cuda/block.cuh"

using namespace fusedstep::cuda;

namespace {

constexpr unsigned kAll = 0xFFFFFFFF;

int own() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

// What it must run.

__global__ void count(float*, unsigned* u, int) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  u[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

// In which order threads ran: the n-th writes n.
__global__ void order(float* x, unsigned* u, int) { x[own()] = float(atomicAdd(u, 1u)); }

__global__ void reverse(float* x, unsigned*, int) {
  float* const shared = dynamic_memory<float>();
  shared[threadIdx.x] = x[own()];
  __syncthreads();
  x[own()] = shared[blockDim.x - 1 - threadIdx.x];
}

struct Poisoned {
  float of[64];
};
__global__ void poison(float* x, unsigned*, int) {
  x[own()] = threadIdx.x & 1 ? block_memory<Poisoned>().of[threadIdx.x] : dynamic_memory<float>()[threadIdx.x];
}

// Eight results a lane.
__global__ void shuffles(float* x, unsigned* u, int) {
  const int lane = int(threadIdx.x);
  float* const to = x + 8 * lane;
  const float value = float(lane);
  to[0] = __shfl_sync(kAll, value, 3);
  to[1] = __shfl_sync(kAll, value, 9, 8);
  to[2] = __shfl_up_sync(kAll, value, 2);
  to[3] = __shfl_down_sync(kAll, value, 16);
  to[4] = __shfl_xor_sync(kAll, value, 5);
  to[5] = __shfl_down_sync(kAll, value, 3, 8);
  // Halves of a warp meet by themselves.
  const unsigned half = lane < 16 ? 0xFFFF : 0xFFFF0000;
  to[6] = __shfl_xor_sync(half, value, 15);
  to[7] = float(__any_sync(kAll, lane == 7) + 2 * __all_sync(kAll, lane < 32) + 4 * __any_sync(kAll, lane > 31) +
                8 * __all_sync(kAll, lane < 31));
  const unsigned ballot = __ballot_sync(kAll, lane % 3 == 0);
  if (lane == 0) u[0] = ballot;
}

__global__ void warp_exchange(float* x, unsigned*, int) {
  auto& shared = block_memory<Poisoned>();
  shared.of[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  x[threadIdx.x] = shared.of[threadIdx.x ^ 1];
}

__global__ void atomics(float* x, unsigned* u, int) {
  atomicAdd(x, 1.0f);
  atomicMax(u + 1, unsigned(own()));
  atomicMin(u + 2, unsigned(own()));
  if (atomicCAS(u + 3, 0u, unsigned(own()) + 1) == 0) atomicExch(u + 4, 7u);
  __nv_atomic_fetch_add(u, 1u, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
}

// Each round a block adds one to what its neighbour had the round before.
__global__ void rounds(float* x, unsigned* u, int n) {
  for (int round = 1; round <= n; ++round) {
    float *const from = x + (round & 1) * gridDim.x, *const to = x + (~round & 1) * gridDim.x;
    if (threadIdx.x == 0) to[blockIdx.x] = from[(blockIdx.x + 1) % gridDim.x] + 1;
    grid_barrier(u, unsigned(round));
  }
}

// The last block to come sums what all wrote.
__global__ void last_block(float* x, unsigned* u, int) {
  x[1 + blockIdx.x] = float(blockIdx.x);
  __threadfence();
  if (atomicAdd(u, 1u) != gridDim.x - 1) return;
  __threadfence();
  float sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += x[1 + i];
  x[0] = sum;
}

// A flag: one block sets it, another waits.
__global__ void flag(float* x, unsigned* u, int) {
  if (blockIdx.x == 0) {
    while (!__nv_atomic_load_n(u, __NV_ATOMIC_ACQUIRE, __NV_THREAD_SCOPE_DEVICE)) __nanosleep(20);
    x[1] = x[0];
  } else {
    x[0] = 5;
    __nv_atomic_store_n(u, 1u, __NV_ATOMIC_RELEASE, __NV_THREAD_SCOPE_DEVICE);
  }
}

__global__ void early_exit(float* x, unsigned*, int) {
  if (threadIdx.x >= 32) return;
  __syncthreads();
  x[threadIdx.x] = __shfl_sync(kAll, 1.0f, 0);
}

__global__ void vectors(float* x, unsigned*, int n) { reinterpret_cast<uint4*>(x + n)[own()] = uint4{1, 2, 3, 4}; }

// Mistakes.

__global__ void no_barrier(float* x, unsigned*, int) {
  float* const shared = dynamic_memory<float>();
  shared[threadIdx.x] = x[own()];
  x[own()] = shared[blockDim.x - 1 - threadIdx.x];
}
__global__ void no_warp_barrier(float* x, unsigned*, int) {
  auto& shared = block_memory<Poisoned>();
  shared.of[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = shared.of[threadIdx.x ^ 1];
}
__global__ void reused_memory(float* x, unsigned*, int) {
  auto& shared = block_memory<Poisoned>();
  for (int round = 0; round < 2; ++round) {
    shared.of[threadIdx.x] = float(round);
    __syncthreads();
    x[threadIdx.x] += shared.of[63 - threadIdx.x];
  }
}
__global__ void divergent(float*, unsigned*, int) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void some_wait(float* x, unsigned*, int) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    x[0] = __shfl_sync(kAll, 1.0f, 0);
}
__global__ void full_mask(float* x, unsigned*, int) {
  if (threadIdx.x < 16) return;
  x[threadIdx.x] = __shfl_down_sync(kAll, 1.0f, 1);
}
__global__ void lane_leaves(float* x, unsigned*, int) {
  if (threadIdx.x == 31) return;
  x[threadIdx.x] = __shfl_down_sync(kAll, 1.0f, 1);
}
__global__ void other_mask(float*, unsigned*, int) { __syncwarp(threadIdx.x < 16 ? 0xFFFF0000 : 0xFFFF); }
__global__ void two_places(float* x, unsigned*, int) {
  if (threadIdx.x < 16)
    x[0] = __shfl_sync(kAll, 1.0f, 0);
  else
    x[1] = __shfl_sync(kAll, 1.0f, 0);
}
__global__ void waits_for_ever(float*, unsigned* u, int) {
  while (!__nv_atomic_load_n(u, __NV_ATOMIC_ACQUIRE, __NV_THREAD_SCOPE_DEVICE)) continue;
}
__global__ void beyond_dynamic(float*, unsigned*, int) { dynamic_memory<float>()[threadIdx.x + 1] = 1; }
__global__ void beyond_static(float*, unsigned*, int) { block_memory<Poisoned>().of[63 + threadIdx.x] = 1; }
__global__ void beyond_global(float* x, unsigned*, int n) {
  if (own() <= n) x[own()] = 1;
}
__global__ void blocks_race(float* x, unsigned*, int) { x[0] += 1; }
__global__ void no_fence(float* x, unsigned* u, int) {
  x[1 + blockIdx.x] = float(blockIdx.x);
  if (atomicAdd(u, 1u) == gridDim.x - 1) x[0] = x[1];
}
__global__ void throws(float*, unsigned*, int) {
  __syncthreads();
  if (threadIdx.x == 3) throw std::runtime_error("thrown");
  __syncthreads();
}

struct Kernel {
  const char* name;
  void (*run)(float*, unsigned*, int);
};
const Kernel kernels[] = {
    {"count", count},
    {"order", order},
    {"reverse", reverse},
    {"poison", poison},
    {"shuffles", shuffles},
    {"warp_exchange", warp_exchange},
    {"atomics", atomics},
    {"rounds", rounds},
    {"last_block", last_block},
    {"flag", flag},
    {"early_exit", early_exit},
    {"vectors", vectors},
    {"no_barrier", no_barrier},
    {"divergent", divergent},
    {"some_wait", some_wait},
    {"no_warp_barrier", no_warp_barrier},
    {"reused_memory", reused_memory},
    {"full_mask", full_mask},
    {"lane_leaves", lane_leaves},
    {"other_mask", other_mask},
    {"two_places", two_places},
    {"waits_for_ever", waits_for_ever},
    {"beyond_dynamic", beyond_dynamic},
    {"beyond_static", beyond_static},
    {"beyond_global", beyond_global},
    {"blocks_race", blocks_race},
    {"no_fence", no_fence},
    {"throws", throws},
};

}  // namespace

// The error, or null. `grid` and `block` have three numbers each.
extern "C" const char* run_kernel(const char* name, const unsigned* grid, const unsigned* block,
                                  std::size_t dynamic_bytes, bool cooperative, float* x, unsigned* u, int n) {
  static std::string message;
  for (const Kernel& kernel : kernels) {
    if (std::strcmp(kernel.name, name) != 0) continue;
    cudaLaunchAttribute attribute{cudaLaunchAttributeCooperative, {.cooperative = 1}};
    const cudaLaunchConfig_t config{.gridDim = {grid[0], grid[1], grid[2]},
                                    .blockDim = {block[0], block[1], block[2]},
                                    .dynamicSmemBytes = dynamic_bytes,
                                    .stream = nullptr,
                                    .attrs = &attribute,
                                    .numAttrs = cooperative};
    try {
      const cudaError_t error = cudaLaunchKernelEx(&config, kernel.run, x, u, n);
      return error == cudaSuccess ? nullptr : cudaGetErrorName(error);
    } catch (const std::exception& error) {
      message = error.what();
      return message.c_str();
    }
  }
  return "no such kernel";
}
