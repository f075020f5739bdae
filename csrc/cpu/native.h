// What core/vector.h makes of several operations and an instruction set has one instruction for, with the same bits.
#pragma once

#include "cpu/simd.h"

namespace fusedstep::ISA {

// Compilers keep the comparison and the choice, which take two to four cycles more on Zen 4.
template <class T>
FN Vec<T> larger(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_max_ps(a.raw, b.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_max_pd(a.raw, b.raw);
#elif defined(__AVX2__)
  if constexpr (kNative && sizeof(T) == 4) return _mm256_max_ps(a.raw, b.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm256_max_pd(a.raw, b.raw);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return __builtin_ia32_maxps(a.raw, b.raw);
  if constexpr (sizeof(T) == 8) return __builtin_ia32_maxpd(a.raw, b.raw);
#endif
  return select(a > b, a, b);
}
template <class T>
FN Vec<T> smaller(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_min_ps(a.raw, b.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_min_pd(a.raw, b.raw);
#elif defined(__AVX2__)
  if constexpr (kNative && sizeof(T) == 4) return _mm256_min_ps(a.raw, b.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm256_min_pd(a.raw, b.raw);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return __builtin_ia32_minps(a.raw, b.raw);
  if constexpr (sizeof(T) == 8) return __builtin_ia32_minpd(a.raw, b.raw);
#endif
  return select(a < b, a, b);
}

#if defined(__AVX512F__)
template <class T>
FN Vec<T> scaled_successor(Vec<T> q, Vec<T> raised) {
  const Vec<T> one(T(1)), n = raised - Vec<T>(kMagic<T>);
  if constexpr (sizeof(T) == 4)
    return _mm512_scalef_ps((one + q).raw, n.raw);
  else
    return _mm512_scalef_pd((one + q).raw, n.raw);
}
#endif

}  // namespace fusedstep::ISA
