// Sums over a row of hidden units that a block of threads takes: the CPU's, to the bit (rnn/norm.h).
//
// A thread takes one unit of each stretch of the row. The kNormUnits units of a block of the row lie in neighbouring
// lanes, whose values are folded by shuffles; a thread for each norm combines the blocks. So the bits depend neither on
// the number of threads nor on other rows.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/block.cuh"
#include "cuda/lane.cuh"
#include "rnn/norm.h"

namespace fusedstep::ISA {

// Of a block, at most. A kernel says that one block of a multiprocessor is enough: without it, ptxas spilled registers
// for the sake of a third one.
inline constexpr unsigned kRowThreads = 512;

// f(unit) for the thread's units of a row, and as often for every other thread of a warp: then `unit` may be past the
// end.
template <class F>
__device__ void each_unit_of_row(std::size_t H, F f) {
#pragma unroll 1
  for (std::size_t unit = threadIdx.x; unit - threadIdx.x < H; unit += blockDim.x) f(unit);
}

// The sum over a block's lanes, in each of them.
__device__ inline double fold_units(double sum) {
  for (unsigned half = kNormUnits / 2; half; half /= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, half);
  return sum;
}

// What the threads of a row share: two sums of each norm and block of units, and the two values made of them.
template <class Cell>
struct SharedSums {
  using T = typename Cell::Scalar;
  using D = Lane<double>;
  static constexpr int all = kNorms<Cell>;

  struct Values {
    T of[all][2];
  };

  const std::size_t H;
  double* const sums = dynamic_memory<double>();  // (norms, blocks, 2)
  Values& values = block_memory<Values>();

  FN static std::size_t bytes(std::size_t H) { return std::size_t(all) * norm_blocks(H) * 2 * sizeof(double); }
  __device__ explicit SharedSums(std::size_t of_H) : H(of_H) {}

  __device__ void leave(int norm, std::size_t unit, double first, double second) const {
    if (unit >= H || threadIdx.x % kNormUnits > 0) return;
    double* const to = sums + (std::size_t(norm) * norm_blocks(H) + unit / kNormUnits) * 2;
    to[0] = first;
    to[1] = second;
  }
  // Of `count` vectors of a block of units: their mean, and the squared deviations from it.
  template <int count>
  __device__ void leave_moments(int norm, std::size_t unit, const Lane<T>* of) const {
    const bool there = unit < H;
    double sum = 0, squares = 0;
    if (there) unroll<count>([&](auto j) { sum += double(of[j].raw); });
    const double n = double(count) * double(block_units(H, unit / kNormUnits * kNormUnits)),
                 mean = fold_units(sum) / (there ? n : 1);
    if (there)
      unroll<count>([&](auto j) {
        const double apart = double(of[j].raw) - mean;
        squares += apart * apart;
      });
    squares = fold_units(squares);
    leave(norm, unit, mean, squares);
  }
  // The sums of γ·dy and of γ·dy·x̂ over `count` vectors of a block of units.
  template <int count>
  __device__ void leave_sums(int norm, std::size_t unit, const Lane<T>* dy, const Lane<T>* x,
                             const Lane<T>* gain) const {
    double sum = 0, products = 0;
    if (unit < H)
      unroll<count>([&](auto j) {
        const double d = double(dy[j].raw), g = double(gain[j].raw);
        sum += g * d;
        products += g * (d * double(x[j].raw));
      });
    sum = fold_units(sum);
    products = fold_units(products);
    leave(norm, unit, sum, products);
  }

  // make(H, count, at, one, other) for norms first … last-1; the whole block of threads comes here.
  template <int first, int last, class F>
  __device__ void combine(F make) const {
    __syncthreads();
    if (threadIdx.x < last - first) {
      const int norm = first + int(threadIdx.x);
      int count = 1;
      unroll<last - first>([&](auto i) {
        constexpr int of_norm = norm_of<Cell>(first + i).count;
        if (norm == first + i) count = of_norm;
      });
      const double* const from = sums + std::size_t(norm) * norm_blocks(H) * 2;
      D one, other;
      make(H, count, [&](std::size_t block, int which) { return D(from[block * 2 + std::size_t(which)]); }, one, other);
      values.of[norm][0] = T(one.raw);
      values.of[norm][1] = T(other.raw);
    }
    __syncthreads();
  }
  template <int first, int last>
  __device__ void statistics() const {
    combine<first, last>([](auto&&... of) { combine_moments(of...); });
  }
  template <int first, int last>
  __device__ void means() const {
    combine<first, last>([](auto&&... of) { combine_sums(of...); });
  }
};

}  // namespace fusedstep::ISA
