// Vec<T>: one hardware register of floats or doubles over GCC/Clang vector extensions.
//
// Rules, cells and math.h are written over it. What they may use: + − × ÷, comparisons, and the free functions below.
// `fma` is one rounding on every instruction set (the build forbids contraction, so a*b+c is two); the portable set
// emulates it for float and calls libm's for double. The build sets kVectorBytes through FUSEDSTEP_VECTOR_BYTES.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/fn.h"
#include "core/vector.h"

namespace fusedstep::ISA {

inline constexpr int kVectorBytes = FUSEDSTEP_VECTOR_BYTES;

#if defined(__AVX512F__)
inline constexpr int kHardwareBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kHardwareBytes = 32;
#else
inline constexpr int kHardwareBytes = 16;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kRegisters = 32;
#else
inline constexpr int kRegisters = 16;
#endif
// False only in the test build that runs the 16-lane kernels on an AVX2 machine: it takes the lane loops.
inline constexpr bool kNative = kVectorBytes == kHardwareBytes;

// The compiler's vector types, by name for each element: GCC drops the attribute from a typedef of a template
// parameter.
template <class T>
struct Register;
template <>
struct Register<float> {
  using Integer = std::int32_t;
  typedef float Raw __attribute__((vector_size(kVectorBytes)));
  typedef Integer Bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Register<double> {
  using Integer = std::int64_t;
  typedef double Raw __attribute__((vector_size(kVectorBytes)));
  typedef Integer Bits __attribute__((vector_size(kVectorBytes)));
};

template <class T>
struct Vec {
  using Scalar = T;
  using Integer = typename Register<T>::Integer;
  using Raw = typename Register<T>::Raw;
  using Bits = typename Register<T>::Bits;
  static constexpr int size = kVectorBytes / int(sizeof(T));

  Raw raw;

  Vec() = default;
  FN Vec(Raw x) : raw(x) {}
  FN Vec(T x) : raw(x - Raw{}) {}  // broadcast (x - 0 keeps -0)

  FN static Vec number(Bits bits) { return __builtin_convertvector(bits, Raw); }

  FN friend Vec operator+(Vec a, Vec b) { return a.raw + b.raw; }
  FN friend Vec operator-(Vec a, Vec b) { return a.raw - b.raw; }
  FN friend Vec operator*(Vec a, Vec b) { return a.raw * b.raw; }
  FN friend Vec operator/(Vec a, Vec b) { return a.raw / b.raw; }
  FN friend Vec operator-(Vec a) { return -a.raw; }

  // Lane masks: all ones or all zeros, combined with & | and used by select().
  FN friend Bits operator<(Vec a, Vec b) { return a.raw < b.raw; }
  FN friend Bits operator>(Vec a, Vec b) { return a.raw > b.raw; }
  FN friend Bits operator<=(Vec a, Vec b) { return a.raw <= b.raw; }
  FN friend Bits operator>=(Vec a, Vec b) { return a.raw >= b.raw; }
  FN friend Bits operator==(Vec a, Vec b) { return a.raw == b.raw; }
  FN friend Bits operator!=(Vec a, Vec b) { return a.raw != b.raw; }
};

template <class T>
FN Vec<T> select(Bits<Vec<T>> mask, Vec<T> a, Vec<T> b) {
  return mask ? a.raw : b.raw;
}

template <class T>
FN Vec<T> sqrt(Vec<T> a) {
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_sqrt_ps(a.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_sqrt_pd(a.raw);
#elif defined(__AVX2__)
  if constexpr (kNative && sizeof(T) == 4) return _mm256_sqrt_ps(a.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm256_sqrt_pd(a.raw);
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) return vsqrtq_f32(a.raw);
  if constexpr (sizeof(T) == 8) return vsqrtq_f64(a.raw);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return __builtin_ia32_sqrtps(a.raw);
  if constexpr (sizeof(T) == 8) return __builtin_ia32_sqrtpd(a.raw);
#endif
  Vec<T> r;
  for (int i = 0; i < Vec<T>::size; ++i) r.raw[i] = std::sqrt(a.raw[i]);
  return r;
}

// a*b + c for float without hardware fma: the product is exact in double; the sum is rounded to odd (so that the second
// rounding, to float, is the only one that counts). Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
// proved algorithms using rounding to odd", 2008.
FN Vec<float> fma_through_double(Vec<float> a, Vec<float> b, Vec<float> c) {
  typedef double Wide __attribute__((vector_size(2 * kVectorBytes)));
  typedef std::int64_t WideBits __attribute__((vector_size(2 * kVectorBytes)));
  const Wide product = __builtin_convertvector(a.raw, Wide) * __builtin_convertvector(b.raw, Wide);
  const Wide addend = __builtin_convertvector(c.raw, Wide);
  const Wide sum = product + addend;
  const Wide shift = sum - product;
  const Wide error = (product - (sum - shift)) + (addend - shift);  // exact (Knuth's two-sum)
  WideBits bits = reinterpret_cast<WideBits>(sum);
  const WideBits inexact = (error > 0) | (error < 0);  // false for NaN: the sum is inf or NaN and stays
  const WideBits even = (bits & 1) == 0;
  const WideBits away = (error > 0) == (sum > 0);
  bits += (inexact & even) & ((away & 1) | (~away & -1));
  return __builtin_convertvector(reinterpret_cast<Wide>(bits), Vec<float>::Raw);
}

// Not inlined: a product's unrolled loop would hold dozens of copies.
template <class T>
__attribute__((noinline)) Vec<T> fma_in_software(Vec<T> a, Vec<T> b, Vec<T> c) {
#if !defined(__FMA__) && !defined(__aarch64__)
  if constexpr (sizeof(T) == 4) return fma_through_double(a, b, c);
#endif
  Vec<T> r;
  for (int i = 0; i < Vec<T>::size; ++i) r.raw[i] = std::fma(a.raw[i], b.raw[i], c.raw[i]);
  return r;
}

template <class T>
FN Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_fmadd_ps(a.raw, b.raw, c.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_fmadd_pd(a.raw, b.raw, c.raw);
#elif defined(__FMA__)
  if constexpr (kNative && sizeof(T) == 4) return _mm256_fmadd_ps(a.raw, b.raw, c.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm256_fmadd_pd(a.raw, b.raw, c.raw);
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) return vfmaq_f32(c.raw, a.raw, b.raw);
  if constexpr (sizeof(T) == 8) return vfmaq_f64(c.raw, a.raw, b.raw);
#endif
  return fma_in_software(a, b, c);
}

// A register of 64-bit lanes, each a word of 32 bits in its lower half.
struct Words {
  typedef std::uint64_t Raw __attribute__((vector_size(kVectorBytes)));
  static constexpr int size = kVectorBytes / int(sizeof(std::uint64_t));

  Raw raw;

  Words() = default;
  FN Words(Raw x) : raw(x) {}
  FN Words(std::uint32_t x) : raw(Raw{} + x) {}  // broadcast

  FN friend Words operator^(Words a, Words b) { return a.raw ^ b.raw; }
  FN friend Words operator>>(Words a, int n) { return a.raw >> n; }
  // The lower halves times b.
  FN friend Words low_product(Words a, std::uint32_t b) {
#if defined(__AVX512F__)
    return (Raw)_mm512_maskz_mul_epu32(0xFF, (__m512i)a.raw, _mm512_set1_epi64(b));
#elif defined(__AVX2__) && FUSEDSTEP_VECTOR_BYTES == 32
    return (Raw)_mm256_mul_epu32((__m256i)a.raw, _mm256_set1_epi64x(b));
#else
    return (a.raw & 0xFFFFFFFF) * std::uint64_t(b);
#endif
  }
  FN std::uint32_t operator[](int lane) const { return std::uint32_t(raw[lane]); }
};

// A float's upper half.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;
  // To nearest, ties to even; NaN stays NaN.
  explicit BFloat16(float x) {
    std::uint32_t whole;
    __builtin_memcpy(&whole, &x, sizeof whole);
    bits = std::uint16_t(x != x ? whole >> 16 | 0x40 : (whole + 0x7FFF + (whole >> 16 & 1)) >> 16);
  }
};

// Two vectors whose lanes alternate in memory: the first in the lower halves of as many words.
FN void load_pair(const BFloat16* p, Vec<float>& first, Vec<float>& second) {
  Bits<Vec<float>> words;
  __builtin_memcpy(&words, p, sizeof words);
  first = from_bits<Vec<float>>(words << 16);
  second = from_bits<Vec<float>>(words & std::int32_t(0xFFFF0000));
}

// Memory. `load` and `store` take any alignment. `load_n` and `store_n` touch the first n < size elements only; the
// missing lanes read as zero. `S` is the storage type.
template <class T, class S>
FN Vec<T> load(const S* p) {
  static_assert(std::is_same_v<S, T>, "a storage type needs its conversion here");
  Vec<T> r;
  __builtin_memcpy(&r.raw, p, sizeof r.raw);
  return r;
}
template <class T, class S>
FN void store(S* p, Vec<T> a) {
  static_assert(std::is_same_v<S, T>, "a storage type needs its conversion here");
  __builtin_memcpy(p, &a.raw, sizeof a.raw);
}

// As many consecutive elements as D has lanes, widened to double.
template <class D, class S>
FN D widen(const S* p) {
  typedef S Narrow __attribute__((vector_size(D::size * sizeof(S))));
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(S) == 4) return _mm512_cvtps_pd(_mm256_loadu_ps(p));  // GCC makes five of it
#endif
  Narrow narrow;
  __builtin_memcpy(&narrow, p, sizeof narrow);
  return D(__builtin_convertvector(narrow, typename D::Raw));
}

template <class V>
FN Bits<V> first_lanes(int n) {
  using I = typename V::Integer;
  Bits<V> lane;
  for (int i = 0; i < V::size; ++i) lane[i] = I(i);
  return lane < I(n);
}

template <class T, class S>
FN Vec<T> load_n(const S* p, int n) {
  static_assert(std::is_same_v<S, T>, "a storage type needs its conversion here");
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#elif defined(__AVX2__)
  using V = Vec<T>;
  if constexpr (kNative && sizeof(T) == 4) return _mm256_maskload_ps(p, (__m256i)first_lanes<V>(n));
  if constexpr (kNative && sizeof(T) == 8) return _mm256_maskload_pd(p, (__m256i)first_lanes<V>(n));
#endif
  Vec<T> r;
  r.raw = typename Vec<T>::Raw{};
  for (int i = 0; i < n; ++i) r.raw[i] = p[i];
  return r;
}
template <class T, class S>
FN void store_n(S* p, Vec<T> a, int n) {
  static_assert(std::is_same_v<S, T>, "a storage type needs its conversion here");
#if defined(__AVX512F__)
  if constexpr (kNative && sizeof(T) == 4) return _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), a.raw);
  if constexpr (kNative && sizeof(T) == 8) return _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), a.raw);
#endif
  // In halves of what is left, each a store of fixed size: AVX2's masked store takes a dozen cycles on AMD.
  T lanes[Vec<T>::size];
  __builtin_memcpy(lanes, &a.raw, sizeof lanes);
  const T* from = lanes;
#pragma GCC unroll 8
  for (int half = Vec<T>::size / 2; half; half /= 2) {
    if (!(n & half)) continue;
    __builtin_memcpy(p, from, half * sizeof(T));
    p += half;
    from += half;
  }
}

// n elements of a vector's width at most, the rest zero; and back.
template <class T>
FN Vec<T> load_some(const T* p, std::size_t n) {
  return n >= std::size_t(Vec<T>::size) ? load<T>(p) : load_n<T>(p, int(n));
}
template <class T>
FN void store_some(T* p, Vec<T> a, std::size_t n) {
  n >= std::size_t(Vec<T>::size) ? store(p, a) : store_n(p, a, int(n));
}

}  // namespace fusedstep::ISA

#include "cpu/native.h"
