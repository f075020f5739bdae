// What a CUDA thread knows of its place, and what it does together with its block and its warp.
#pragma once

#include <cstdint>
#include <cstring>
#include <source_location>

#include "cuda_host/vectors.h"

// Those of the thread that runs. A block stays on one thread of the operating system.
extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace cuda_host {

using Where = std::source_location;

void block_barrier(const Where& where);
// Waits for the lanes of `mask`, each at the same place, and gives what every lane brought. Only `synchronizing` calls
// order memory.
const std::uint64_t* meet(unsigned mask, std::uint64_t value, bool synchronizing, const Where& where);
unsigned lane();
void fence();
// Lets other threads run; for loops that wait.
void pause();

// Memory of the block: one piece for each key, and the launch's dynamic bytes.
void* block_memory(const void* key, std::size_t bytes);
void* dynamic_memory();

// The value of lane `source`; of a lane that the mask leaves out, garbage.
template <class T>
T from_lane(unsigned mask, T value, int source, const Where& where) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet(mask, bits, false, where)[source];
  if (!(mask >> source & 1)) bits = 0xA5A5A5A5A5A5A5A5;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// Shuffles stay within `width` lanes: outside, a lane gets its own value.
inline int within(int source, int width) {
  const int own = int(lane()), first = own & ~(width - 1);
  return source >= first && source < first + width ? source : own;
}

}  // namespace cuda_host

inline void __syncthreads(const cuda_host::Where& where = cuda_host::Where::current()) {
  cuda_host::block_barrier(where);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFF, const cuda_host::Where& where = cuda_host::Where::current()) {
  cuda_host::meet(mask, 0, true, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              const cuda_host::Where& where = cuda_host::Where::current()) {
  return cuda_host::from_lane(mask, value, (int(cuda_host::lane()) & ~(width - 1)) + (source & (width - 1)), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                 const cuda_host::Where& where = cuda_host::Where::current()) {
  return cuda_host::from_lane(mask, value, cuda_host::within(int(cuda_host::lane()) - int(distance), width), where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                   const cuda_host::Where& where = cuda_host::Where::current()) {
  return cuda_host::from_lane(mask, value, cuda_host::within(int(cuda_host::lane() + distance), width), where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize,
                  const cuda_host::Where& where = cuda_host::Where::current()) {
  return cuda_host::from_lane(mask, value, cuda_host::within(int(cuda_host::lane()) ^ bits, width), where);
}

inline unsigned __ballot_sync(unsigned mask, bool vote, const cuda_host::Where& where = cuda_host::Where::current()) {
  const std::uint64_t* const votes = cuda_host::meet(mask, vote, false, where);
  unsigned ballot = 0;
  for (int i = 0; i < warpSize; ++i)
    if (mask >> i & 1) ballot |= unsigned(votes[i]) << i;
  return ballot;
}
inline bool __any_sync(unsigned mask, bool vote, const cuda_host::Where& where = cuda_host::Where::current()) {
  return __ballot_sync(mask, vote, where) != 0;
}
inline bool __all_sync(unsigned mask, bool vote, const cuda_host::Where& where = cuda_host::Where::current()) {
  return __ballot_sync(mask, vote, where) == mask;
}

// Orders the one atomic operation that follows (a legacy one: the __nv_atomic functions say their order).
inline void __threadfence() { cuda_host::fence(); }
// A load past the caches that are not coherent: the host's all are.
template <class T>
T __ldcg(const T* address) {
  return *address;
}
inline void __nanosleep(unsigned) { cuda_host::pause(); }
