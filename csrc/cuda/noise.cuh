// Zoneout and recurrent dropout, whose draws core/noise.h says: masks of a whole sweep, drawn before its steps, which
// then read a byte a unit.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/noise.h"
#include "cuda/recurrence.cuh"

namespace fusedstep::ISA {

inline constexpr unsigned kMaskUnits = 32, kMaskRows = 8;  // of a block: x over units, y over rows

// f(unit, row number) for a thread's share of H units and n rows.
template <class F>
__device__ void each_of(std::size_t H, std::size_t n, F f) {
  const std::size_t unit = std::size_t(blockIdx.x) * kMaskUnits + threadIdx.x;
  if (unit >= H) return;
  for (std::size_t i = std::size_t(blockIdx.y) * kMaskRows + threadIdx.y; i < n;
       i += std::size_t(gridDim.y) * kMaskRows)
    f(unit, i);
}

FN void draw_unit(Word (&words)[4], const Noise& noise, Draw of, std::size_t unit) {
  words[0] = Word(std::uint32_t(unit));
  draw(words, noise, of);
}

// mask (B, H): what multiplies h before W_hh.
template <class T>
__global__ void __launch_bounds__(kMaskUnits* kMaskRows)
    recurrent_mask_kernel(const Noise __grid_constant__ noise, const std::size_t B, const std::size_t H, T* mask) {
  each_of(H, B, [&](std::size_t unit, std::size_t row) {
    Word words[4];
    draw_unit(words, noise, recurrent_draw(noise, row), unit);
    mask[row * H + unit] = *words[0] < draw_threshold(noise.recurrent) ? T(0) : recurrent_scale<T>(noise);
  });
}

// stays (S, B, H): bit i where state i stays as it was. A thread takes the two rows that share a draw.
__global__ void __launch_bounds__(kMaskUnits* kMaskRows)
    zoneout_mask_kernel(const Noise __grid_constant__ noise, const std::size_t S, const std::size_t B,
                        const std::size_t H, std::uint8_t* stays) {
  const std::size_t odd = noise.row % 2, pairs = (odd + B + 1) / 2;
  each_of(H, S * pairs, [&](std::size_t unit, std::size_t i) {
    const std::size_t step = i / pairs, first = i % pairs * 2;  // 1 more than the pair's first row where rows begin odd
    Word words[4];
    draw_unit(words, noise, zoneout_draw(noise, step, first < odd ? 0 : first - odd), unit);
    unroll<2>([&](auto j) {
      if (first + j < odd || first + j - odd >= B) return;
      std::uint8_t bits = 0;
      for (int state = 0; state < kRecurrentStates; ++state)
        if (*words[2 * j + state] < draw_threshold(noise.zoneout[state])) bits |= std::uint8_t(1 << state);
      stays[(step * B + (first + j - odd)) * H + unit] = bits;
    });
  });
}

}  // namespace fusedstep::ISA
