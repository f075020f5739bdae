// Rows as int8 codes, for products with weights that are codes too: the CPU's (cpu/int8.h).
//
//   of a row x:   scale = max|x| / 127     code = x / scale to nearest, ties to even, -127 … 127
//   product = (Σ_k code of x · code of w) · (scale of x · scale of w)
//
// Codes lie as float32, so that cuBLAS' products take them: sums of up to 1040 terms are exact, as they stay below 2²⁴;
// longer ones are rounded as any float32 product's. A row with a NaN or an infinity has that scale and codes of zero:
// all that is made of it is NaN.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/block.cuh"

namespace fusedstep::ISA {

inline constexpr unsigned kCodeRows = 8;  // of a block, a warp each

// The larger one, or a NaN.
__device__ inline float larger_or_nan(float a, float b) { return b > a || b != b ? b : a; }

// x (rows, n) to codes (rows, n) and scales (rows).
__global__ void __launch_bounds__(kWarp* kCodeRows)
    quantize_kernel(const float* const x, const std::size_t rows, const std::size_t n, float* const codes,
                    float* const scales) {
  constexpr float kMagic = 0x1.8p23f, kLargest = 0x1.fffffep127f;  // 1.5·2²³ + code rounds to a whole number
  for (std::size_t row = std::size_t(blockIdx.x) * kCodeRows + threadIdx.y; row < rows;
       row += std::size_t(gridDim.x) * kCodeRows) {
    const float* const from = x + row * n;
    float* const to = codes + row * n;
    float top = 0;
    for (std::size_t k = threadIdx.x; k < n; k += kWarp) top = larger_or_nan(top, fabsf(from[k]));
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
      top = larger_or_nan(top, __shfl_xor_sync(0xFFFFFFFFu, top, distance));
    const float scale = top / 127;
    const bool regular = scale > 0 && scale <= kLargest;
    for (std::size_t k = threadIdx.x; k < n; k += kWarp) {
      // A denormal scale is a rounded one: codes might pass 127.
      const float code = regular ? fminf(fmaxf(from[k] / scale, -127.0f), 127.0f) : 0.0f;
      to[k] = (code + kMagic) - kMagic;
    }
    if (threadIdx.x == 0) scales[row] = scale;
  }
}

// products (rows, n) of codes ← what they are of values.
__global__ void __launch_bounds__(kWarp* kCodeRows)
    scale_kernel(float* const products, const std::size_t rows, const std::size_t n, const float* const of_rows,
                 const float* const of_columns) {
  const std::size_t column = std::size_t(blockIdx.x) * kWarp + threadIdx.x;
  if (column >= n) return;
  for (std::size_t row = std::size_t(blockIdx.y) * kCodeRows + threadIdx.y; row < rows;
       row += std::size_t(gridDim.y) * kCodeRows)
    products[row * n + column] = products[row * n + column] * (of_rows[row] * of_columns[column]);
}

}  // namespace fusedstep::ISA
