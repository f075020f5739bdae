// What the threads of a block and the blocks of a grid share: memory and a barrier.
#pragma once

#include <cuda_runtime.h>

namespace fusedstep::ISA {

inline constexpr unsigned kWarp = 32;

// One T a block, the same for every call with that T; and the memory whose size a launch tells. Both begin undefined.
#ifdef __CUDACC__
template <class T>
__device__ inline T& block_memory() {
  __shared__ T memory;
  return memory;
}
template <class T>
__device__ inline T* dynamic_memory() {
  extern __shared__ uint4 memory[];
  return reinterpret_cast<T*>(memory);
}
#else
template <class T>
T& block_memory() {
  static const char key = 0;
  return *static_cast<T*>(cuda_host::block_memory(&key, sizeof(T)));
}
template <class T>
T* dynamic_memory() {
  return static_cast<T*>(cuda_host::dynamic_memory());
}
#endif

// Waits for every thread of the grid, which a cooperative launch keeps resident; what they wrote before is seen after.
// `arrived`, in device memory, is 0 at the launch; `round` counts the calls, from 1. A block has its threads along x.
__device__ inline void grid_barrier(unsigned* arrived, unsigned round) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __nv_atomic_fetch_add(arrived, 1u, __NV_ATOMIC_RELEASE, __NV_THREAD_SCOPE_DEVICE);
    while (__nv_atomic_load_n(arrived, __NV_ATOMIC_ACQUIRE, __NV_THREAD_SCOPE_DEVICE) < round * gridDim.x) continue;
  }
  __syncthreads();
}

}  // namespace fusedstep::ISA
