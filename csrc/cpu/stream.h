// Stores past the caches, for results that are larger than these: an ordinary store first reads the line that it writes
// to, which is a third of what a gradient costs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/simd.h"

namespace fusedstep::ISA {

// p: aligned to the vector. All of a line is to be written, in order.
template <class T>
FN void stream(T* p, Vec<T> a) {
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_stream_ps(p, a.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_stream_pd(p, a.raw);
#elif defined(__AVX2__)
  if constexpr (kNative && sizeof(T) == 4) return _mm256_stream_ps(p, a.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm256_stream_pd(p, a.raw);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return _mm_stream_ps(p, a.raw);
  if constexpr (sizeof(T) == 8) return _mm_stream_pd(p, a.raw);
#endif
  store(p, a);
}

// What was streamed comes before what this thread stores next.
inline void end_of_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// n elements that lie in cache, to where none of them will be read soon: whole lines streamed, the ends stored.
template <class T>
void stream_copy(T* to, const T* from, std::size_t n) {
  constexpr std::size_t line = 64 / sizeof(T);
  const std::size_t head = std::min(n, -reinterpret_cast<std::uintptr_t>(to) % 64 / sizeof(T));
  const std::size_t end = head + (n - head) / line * line;
  std::memcpy(to, from, head * sizeof(T));
  for (std::size_t at = head; at < end; at += Vec<T>::size) stream(to + at, load<T>(from + at));
  std::memcpy(to + end, from + end, (n - end) * sizeof(T));
}

}  // namespace fusedstep::ISA
