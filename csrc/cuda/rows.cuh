// What sequences need beside their steps: sums over rows, dropout between layers, copies.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/philox.h"
#include "cuda/block.cuh"
#include "cuda/recurrence.cuh"

namespace fusedstep::ISA {

inline constexpr unsigned kColumns = 32, kLines = 8;  // of a block: x over columns, y over rows
inline constexpr std::size_t kLineBlock = 512;        // rows that a block of threads sums

// Each block of rows: thread y adds rows y, y+8, … in ascending order in double; the threads' sums are added likewise.
template <class T>
__global__ void __launch_bounds__(kColumns* kLines) column_sums_kernel(const ColumnSums __grid_constant__ call) {
  double* const parts = dynamic_memory<double>();  // (kLines, kColumns)
  const std::size_t column = std::size_t(blockIdx.x) * kColumns + threadIdx.x, begin = blockIdx.y * kLineBlock,
                    end = begin + kLineBlock < call.n ? begin + kLineBlock : call.n;
  double sum = 0;
  if (column < call.columns)
    for (std::size_t row = begin + threadIdx.y; row < end; row += kLines) {
      const double a = as<T>(call.a)[row * call.ld_a + column];
      sum += call.b ? a * double(as<T>(call.b)[row * call.ld_b + column]) : a;
    }
  parts[threadIdx.y * kColumns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= call.columns) return;
  for (unsigned i = 1; i < kLines; ++i) sum += parts[i * kColumns + threadIdx.x];
  call.sums[blockIdx.y * call.columns + column] = sum;
}

// The blocks' sums in ascending order, rounded once.
template <class T>
__global__ void __launch_bounds__(kColumns* kLines)
    finish_sums_kernel(const ColumnSums __grid_constant__ call, const std::size_t blocks) {
  const std::size_t column = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= call.columns) return;
  double sum = 0;
  for (std::size_t i = 0; i < blocks; ++i) sum += call.sums[i * call.columns + column];
  for (void* const to : call.to)
    if (to) as<T>(to)[column] = T(call.add ? double(as<T>(to)[column]) + sum : sum);
}

// f(step, row, from, to) for a thread's share of the rows of (T, B, n); each row is a warp's at a time.
template <class T, class F>
__device__ void each_row(const RowsCall& call, F f) {
  const std::size_t rows = call.T * call.B;
  for (std::size_t i = std::size_t(blockIdx.x) * kLines + threadIdx.y; i < rows; i += std::size_t(gridDim.x) * kLines) {
    const std::size_t step = i / call.B, row = i % call.B;
    f(step, row, at<T>(call.x, step, row), at<T>(call.y, step, row));
  }
}

// cpu/loops.h: elements 4i … 4i+3 take the words of counter i.
template <class T>
__global__ void __launch_bounds__(kColumns* kLines)
    dropout_kernel(const RowsCall __grid_constant__ call, const DropoutKey __grid_constant__ key,
                   const std::uint32_t threshold, const T scale) {
  each_row<T>(call, [&](std::size_t step, std::size_t row, const T* from, T* to) {
    for (std::size_t at = 4 * std::size_t(threadIdx.x); at < call.n; at += 4 * kColumns) {
      Word words[4] = {Word(std::uint32_t(at / 4)), Word(key.row + std::uint32_t(row)),
                       Word(key.step + std::uint32_t(step)), Word(key.layer)};
      philox(words, std::uint32_t(key.seed), std::uint32_t(key.seed >> 32));
      unroll<4>([&](auto i) {
        if (at + i < call.n) to[at + i] = *words[i] < threshold ? T(0) : from[at + i] * scale;
      });
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kColumns* kLines)
    copy_kernel(const RowsCall __grid_constant__ call, const std::int64_t* lengths) {
  each_row<T>(call, [&](std::size_t step, std::size_t row, const T* from, T* to) {
    const bool there = !lengths || std::int64_t(step) < lengths[row];
    for (std::size_t i = threadIdx.x; i < call.n; i += kColumns) to[i] = there ? from[i] : T(0);
  });
}

// f(there, in the caller's array, in the compact one) for the steps of a sweep.
template <class T, class F>
__device__ void each_taken(const TakenCall& call, F f) {
  each_row<T>(call.rows, [&](std::size_t i, std::size_t row, T*, T* compact) {
    const std::size_t length = call.lengths ? std::size_t(call.lengths[row]) : call.S, step = call.first + i;
    const bool there = step < length;
    f(there, there ? at<T>(call.rows.x, call.reverse ? length - 1 - step : step, row) : nullptr, compact);
  });
}

template <class T>
__global__ void __launch_bounds__(kColumns* kLines) take_kernel(const TakenCall __grid_constant__ call) {
  each_taken<T>(call, [&](bool there, const T* from, T* to) {
    for (std::size_t i = threadIdx.x; i < call.rows.n; i += kColumns) to[i] = there ? from[i] : T(0);
  });
}
template <class T>
__global__ void __launch_bounds__(kColumns* kLines)
    give_kernel(const TakenCall __grid_constant__ call, const bool add) {
  each_taken<T>(call, [&](bool there, T* to, const T* from) {
    if (!there) return;
    for (std::size_t i = threadIdx.x; i < call.rows.n; i += kColumns) to[i] = add ? to[i] + from[i] : from[i];
  });
}

template <class T>
__global__ void __launch_bounds__(kColumns* kLines) add_kernel(T* to, const T* from, const std::size_t n) {
  const std::size_t threads = std::size_t(gridDim.x) * blockDim.x;
  for (std::size_t i = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += threads) to[i] = to[i] + from[i];
}

}  // namespace fusedstep::ISA
