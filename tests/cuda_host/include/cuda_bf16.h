// A stand-in for CUDA's header of this name: bfloat16, a float's upper half, stored and converted.
#pragma once

#include <cstdint>

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __builtin_bit_cast(float, std::uint32_t(x.bits) << 16); }
// To the nearest, ties to even; a NaN is the one that the device makes.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) return {0x7FFF};
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  return {std::uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
