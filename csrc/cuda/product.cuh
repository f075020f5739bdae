// Products of rows of weights with vectors, both in shared memory, by the threads of a block; and how vectors get
// there.
//
// A sum of K terms: lane j of a warp adds terms j, j+32, … in ascending order with fma, and the lanes are folded in
// halves. Tiles, and what else the block multiplies, show in no bit.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/block.cuh"
#include "cuda/lane.cuh"

namespace fusedstep::ISA {

inline constexpr unsigned kThreads = 256;  // of a block

__device__ inline unsigned at_most(unsigned a, unsigned b) { return a < b ? a : b; }

// The sums over a warp's lanes of n vectors, lanes folded in halves: (j, j+16), then (j, j+8), … At each fold a lane
// goes on with half of the vectors, so that n of them take n shuffles: lane j ends with that of vector j / (32/n).
template <int n, int half = int(kWarp) / 2, class T>
__device__ Lane<T> fold_lanes(const Lane<T> (&sum)[n], unsigned lane) {
  const auto exchange = [](Lane<T> value) { return Lane<T>(__shfl_xor_sync(0xFFFFFFFF, value.raw, half)); };
  if constexpr (half == 0) {
    static_assert(n == 1);
    return sum[0];
  } else if constexpr (n == 1) {
    const Lane<T> next[1] = {sum[0] + exchange(sum[0])};
    return fold_lanes<1, half / 2>(next, lane);
  } else {
    const bool upper = lane & half;
    Lane<T> next[n / 2];
    unroll<n / 2>([&](auto i) {
      const Lane<T> kept = select(upper, sum[i + n / 2], sum[i]), given = select(upper, sum[i], sum[i + n / 2]);
      next[i] = kept + exchange(given);
    });
    return fold_lanes<n / 2, half / 2>(next, lane);
  }
}

// Copies n elements that other blocks of this launch may have written, past the caches that are not coherent. Threads
// thread, thread + threads, … take part.
template <class T>
__device__ void copy_fresh(const T* from, std::size_t n, T* to, unsigned thread, unsigned threads) {
  constexpr std::size_t width = sizeof(float4) / sizeof(T);
  std::size_t done = 0;
  if ((reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to)) % sizeof(float4) == 0) {
    done = n / width * width;
    for (std::size_t i = thread; i < n / width; i += threads)
      reinterpret_cast<float4*>(to)[i] = __ldcg(reinterpret_cast<const float4*>(from) + i);
  }
#pragma unroll 1
  for (std::size_t i = done + thread; i < n; i += threads) to[i] = __ldcg(from + i);
}

// Products of the rows of a slice with vectors, both in shared memory.
template <class T>
struct Product {
  const T* rows;     // (groups, units, K)
  const T* vectors;  // (n, groups, K)
  T* sums;           // (groups, units, stride)
  unsigned groups, units, n, K, stride;
};

// R rows × N vectors, a warp's; what lies beyond the last is computed twice and dropped.
template <int R, int N, class T>
__device__ void multiply_tile(const Product<T>& p, unsigned group, unsigned unit, unsigned vector) {
  using V = Lane<T>;
  const unsigned lane = threadIdx.x % kWarp;
  const T *w[R], *v[N];
  unroll<R>([&](auto i) { w[i] = p.rows + std::size_t(group * p.units + at_most(unit + i, p.units - 1)) * p.K; });
  unroll<N>([&](auto j) { v[j] = p.vectors + std::size_t(at_most(vector + j, p.n - 1) * p.groups + group) * p.K; });
  V sum[R * N];
  unroll<R * N>([&](auto i) { sum[i] = V(T(0)); });
#pragma unroll 2
  for (unsigned k = lane; k < p.K; k += kWarp)
    unroll<R>(
        [&](auto i) { unroll<N>([&](auto j) { sum[i * N + j] = fma(V(w[i][k]), V(v[j][k]), sum[i * N + j]); }); });
  const V folded = fold_lanes(sum, lane);
  constexpr unsigned width = kWarp / (R * N);
  const unsigned i = lane / width / N, j = lane / width % N;
  if (lane % width == 0 && unit + i < p.units && vector + j < p.n)
    p.sums[(group * p.units + unit + i) * p.stride + vector + j] = folded.raw;
}

template <int R, int N, class T>
__device__ void multiply_tiles(const Product<T>& p) {
  const unsigned down = (p.units + R - 1) / R, across = (p.n + N - 1) / N;
  for (unsigned tile = threadIdx.x / kWarp; tile < p.groups * down * across; tile += kThreads / kWarp)
    multiply_tile<R, N>(p, tile / (down * across), tile / across % down * R, tile % across * N);
}

// By the whole block. A tile's shape shows in no bit.
template <class T>
__device__ void multiply(const Product<T>& p) {
  if (p.n == 1)
    multiply_tiles<2, 1>(p);
  else
    multiply_tiles<4, 4>(p);
}

}  // namespace fusedstep::ISA
