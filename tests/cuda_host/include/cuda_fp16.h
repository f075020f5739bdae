// A stand-in for CUDA's header of this name: half precision, stored and converted.
#pragma once

struct __half {
  _Float16 value;
};
static_assert(sizeof(__half) == 2);

inline float __half2float(__half x) { return float(x.value); }
inline __half __float2half_rn(float x) { return {_Float16(x)}; }
