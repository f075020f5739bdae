// The storage formats: their types, the arithmetic's type, conversions, and accesses of 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/device.h"

namespace fusedstep::ISA {

template <Format format>
struct Formatted;
template <>
struct Formatted<Format::f32> {
  using Storage = float;
  using Scalar = float;
};
template <>
struct Formatted<Format::f64> {
  using Storage = double;
  using Scalar = double;
};
template <>
struct Formatted<Format::f16> {
  using Storage = __half;
  using Scalar = float;
};
template <>
struct Formatted<Format::bf16> {
  using Storage = __nv_bfloat16;
  using Scalar = float;
};

// To the arithmetic's type, exactly, and back, rounded to the nearest.
__device__ inline float widened(float x) { return x; }
__device__ inline double widened(double x) { return x; }
__device__ inline float widened(__half x) { return __half2float(x); }
__device__ inline float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void round_to(float& to, float x) { to = x; }
__device__ inline void round_to(double& to, double x) { to = x; }
__device__ inline void round_to(__half& to, float x) { to = __float2half_rn(x); }
__device__ inline void round_to(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

inline constexpr std::size_t kAccessBytes = 16;  // of the widest load and store

// n elements, in accesses of 16 bytes where there is more than one: their address is a multiple of it.
template <int n, class S>
struct Pack {
  alignas(n == 1 ? alignof(S) : kAccessBytes) S of[n];

  static constexpr int accesses = n * sizeof(S) / kAccessBytes;

  __device__ void load(const S* from) {
    if constexpr (n == 1)
      of[0] = *from;
    else
      for (int i = 0; i < accesses; ++i) reinterpret_cast<uint4*>(of)[i] = reinterpret_cast<const uint4*>(from)[i];
  }
  __device__ void store(S* to) const {
    if constexpr (n == 1)
      *to = of[0];
    else
      for (int i = 0; i < accesses; ++i) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(of)[i];
  }
};

}  // namespace fusedstep::ISA
