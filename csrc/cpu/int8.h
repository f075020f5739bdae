// Products of int8 codes: of weights that are packed as int8, and of rows that are quantised as they come.
//
//   of a row x:   scale = max|x| / 127     code = x / scale to nearest, ties to even, -127 … 127
//   partial += (Σ_k code of a · code of w) · (scale of a · scale of w)
//
// Dynamic symmetric quantisation: each row of activations, and each row of a weight matrix, has a scale of its own. The
// sums are exact in int32, and one fma adds each to its accumulator; so instruction sets may form them as they like. A
// row with a NaN or an infinity has that scale and codes of zero: all that is made of it is NaN.
//   row: scale, Σ codes, codes in words      panel: (count, lanes) scales, (K / 4, count, lanes) words
// A word holds the codes of four consecutive k; past K they are zero.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/simd.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

using CodeWords = Bits<Vec<float>>;

constexpr std::size_t words_for(std::size_t K) { return (K + 3) / 4; }

// Where a quantised row's codes begin, and its size, in units of float: codes are written by whole vectors.
inline constexpr std::size_t kCodes = 2;
constexpr std::size_t codes_size(std::size_t K) {
  constexpr std::size_t N = Vec<float>::size;
  return kCodes + (K + N - 1) / N * N / 4;
}

// Quantises the row whose elements lie from at(k) on, for each k that is a multiple of a vector's width.
template <class At>
void quantize(std::size_t K, float* to, At at) {
  using V = Vec<float>;
  constexpr std::size_t N = V::size;
  typedef std::int8_t Codes __attribute__((vector_size(N)));
  V largest(0.0f);
  for (std::size_t k = 0; k < K; k += N) largest = max(largest, abs(load_some(at(k), K - k)));
  float top = 0;
  for (std::size_t i = 0; i < N; ++i)
    if (const float x = largest.raw[i]; x > top || x != x) top = x;
  const float scale = top / 127;
  std::int32_t sum = 0;
  if (scale > 0 && scale <= std::numeric_limits<float>::max()) {
    // 1.5·2²³ + code ends in the code's bits. A denormal scale is a rounded one: codes might pass 127.
    const V magic(0x1.8p23f), limit(127.0f);
    CodeWords sums{};
    for (std::size_t k = 0; k < K; k += N) {
      const V code = min(max(load_some(at(k), K - k) / V(scale), -limit), limit);
      const CodeWords bits = to_bits(code + magic);
      sums += bits - to_bits(magic);
      const auto codes = __builtin_convertvector(bits, Codes);
      __builtin_memcpy(to + kCodes + k / 4, &codes, sizeof codes);
    }
    for (std::size_t i = 0; i < N; ++i) sum += sums[i];
  } else {
    std::fill_n(to, codes_size(K), 0.0f);
  }
  to[0] = scale;
  __builtin_memcpy(to + 1, &sum, sizeof sum);
}

// Rows of K elements, row i at row(i), one after the other.
template <class Row>
void quantize_each_row(std::size_t rows, std::size_t K, float* to, Row row) {
  for (std::size_t i = 0; i < rows; ++i)
    quantize(K, to + i * codes_size(K), [from = row(i)](std::size_t k) { return from + k; });
}

// A panel of a weight matrix (…·H, K); units past H are zero.
template <class Gates>
void pack_codes(const float* w, std::size_t H, std::size_t unit, std::size_t K, float* panel) {
  constexpr std::size_t N = Vec<float>::size, C = Gates::count;
  float* const row = static_cast<float*>(scratch(codes_size(K) * sizeof(float)));
  std::fill_n(panel, (1 + words_for(K)) * C * N, 0.0f);
  for (std::size_t c = 0; c < C; ++c)
    for (std::size_t lane = 0; lane < std::min(N, H - unit); ++lane) {
      quantize_each_row(1, K, row, [&](std::size_t) { return w + ((Gates::first + c) * H + unit + lane) * K; });
      float* const to = panel + c * N + lane;
      to[0] = row[0];
      for (std::size_t i = 0; i < words_for(K); ++i)
        __builtin_memcpy(to + (1 + i) * C * N, row + kCodes + i, sizeof(float));
    }
}

// Two ways to a sum: where it begins, and how the products of four codes are added to each lane.
//
// In pairs of products: two fit in 16 bits, since no code is -128.
struct Pairs16 {
  FN static CodeWords begin(std::int32_t) { return CodeWords{}; }
  FN static CodeWords add(CodeWords sum, CodeWords a, CodeWords w) {
#if defined(__AVX2__) && FUSEDSTEP_VECTOR_BYTES == 32
    // |a| unsigned, and w with a's sign.
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)a), _mm256_sign_epi8((__m256i)w, (__m256i)a));
    return sum + (CodeWords)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    typedef std::int16_t Halves __attribute__((vector_size(kVectorBytes)));
    const auto even = [](CodeWords codes) { return (Halves)codes << 8 >> 8; };
    const auto odd = [](CodeWords codes) { return (Halves)codes >> 8; };
    const CodeWords pairs = (CodeWords)(even(a) * even(w) + odd(a) * odd(w));
    return sum + (pairs << 16 >> 16) + (pairs >> 16);
#endif
  }
};

// The dot product of AVX-512 VNNI takes one operand unsigned: Σ a·(w + 128) = Σ a·w + 128·Σ a, so a sum begins at
// -128·Σ a. It may pass int32 on the way, and ends right: all is modulo 2³².
struct UnsignedWeights {
  typedef std::uint32_t Modular __attribute__((vector_size(kVectorBytes)));

  FN static CodeWords begin(std::int32_t sum_of_a) { return CodeWords{} - 128 * sum_of_a; }
  FN static CodeWords add(CodeWords sum, CodeWords a, CodeWords w) {
    const CodeWords above_zero = w ^ std::int32_t(0x80808080);
#if defined(__AVX512F__)
    // In assembly: these kernels are compiled for machines without it, too.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(above_zero), "v"(a));
    return sum;
#else
    for (int i = 0; i < 32; i += 8)
      sum = (CodeWords)((Modular)sum + (Modular)((above_zero >> i & 255) * (a << (24 - i) >> 24)));
    return sum;
#endif
  }
};

// Rows of a tile with C columns: their accumulators, a and |a|, and three more have registers.
template <int C>
inline constexpr int kCodeRows = std::max(1, (kRegisters - 3) / (C + 2));

// partial[row..row+R, first..first+P) += a·panel.
template <class Dot, int R, int P, int C>
FN void codes_tile(float* partial, std::size_t panels, const Places<C>& places, const float* a, std::size_t row_stride,
                   const float* panel, std::size_t stride, std::size_t K) {
  using V = Vec<float>;
  constexpr int N = V::size;
  CodeWords sum[R][P][C];
  const auto each = [&](auto f) __attribute__((always_inline)) {
    unroll<P>([&](auto p) __attribute__((always_inline)) {
      unroll<C>([&](auto c) __attribute__((always_inline)) {
        unroll<R>([&](auto r) __attribute__((always_inline)) { f(r, p, c); });
      });
    });
  };
  const auto word = [&](std::size_t r, std::size_t i) __attribute__((always_inline)) {
    std::int32_t bits;
    __builtin_memcpy(&bits, a + r * row_stride + i, sizeof bits);
    return bits;
  };
  each([&](auto r, auto p, auto c) __attribute__((always_inline)) { sum[r][p][c] = Dot::begin(word(r, 1)); });
  const float* w = panel + C * N;
  for (std::size_t i = 0; i < words_for(K); ++i, w += C * N) {
    CodeWords codes[R], column[P][C];
    unroll<R>([&](auto r) __attribute__((always_inline)) { codes[r] = CodeWords{} + word(r, kCodes + i); });
    each([&](auto r, auto p, auto c) __attribute__((always_inline)) {
      if constexpr (r == 0) column[p][c] = to_bits(load<float>(w + p * stride + c * N));
      sum[r][p][c] = Dot::add(sum[r][p][c], codes[r], column[p][c]);
    });
  }
  each([&](auto r, auto p, auto c) __attribute__((always_inline)) {
    float* const at = partial + (r * panels + p) * places.panel + places.of[c];
    const V scale = V(a[r * row_stride]) * load<float>(panel + p * stride + c * N);
    store(at, fma(V(__builtin_convertvector(sum[r][p][c], V::Raw)), scale, load<float>(at)));
  });
}

// The tile of `rows` × `tile_panels`, at most R × P; one of the two is 1.
template <class Dot, int R, int P, int C>
void codes_tile_of(std::size_t rows, std::size_t tile_panels, float* partial, std::size_t panels,
                   const Places<C>& places, const float* a, std::size_t row_stride, const float* panel,
                   std::size_t stride, std::size_t K) {
  if (rows == R && tile_panels == P)
    return codes_tile<Dot, R, P>(partial, panels, places, a, row_stride, panel, stride, K);
  if constexpr (R > 1)
    codes_tile_of<Dot, R - 1, P>(rows, tile_panels, partial, panels, places, a, row_stride, panel, stride, K);
  else if constexpr (P > 1)
    codes_tile_of<Dot, R, P - 1>(rows, tile_panels, partial, panels, places, a, row_stride, panel, stride, K);
}

template <class Dot, int C>
void accumulate_codes_by(std::size_t rows, std::size_t panels, float* partial, const Places<C>& places, const float* a,
                         std::size_t K, const float* panel, std::size_t stride) {
  constexpr std::size_t R = kCodeRows<C>, P = kTilePanels<C>;
  const std::size_t row_stride = codes_size(K);
  for (std::size_t first = 0; panels > 1 && first < panels; first += P)
    codes_tile_of<Dot, 1, P>(1, std::min(P, panels - first), partial + first * places.panel, panels, places, a,
                             row_stride, panel + first * stride, stride, K);
  for (std::size_t row = 0; panels == 1 && row < rows; row += R)
    codes_tile_of<Dot, R, 1>(std::min(R, rows - row), 1, partial + row * places.panel, 1, places, a + row * row_stride,
                             row_stride, panel, 0, K);
}

// partial += a·panel for quantised rows and one panel, or for one row and any number of panels, `stride` apart.
template <int A, class Gates>
void accumulate_codes(std::size_t rows, std::size_t panels, float* partial, const float* a, std::size_t K,
                      const float* panel, std::size_t stride) {
  const auto places = Places<Gates::count>::template among<Gates>(A, Vec<float>::size);
#if defined(__AVX512F__)
  if (__builtin_cpu_supports("avx512vnni"))
    return accumulate_codes_by<UnsignedWeights>(rows, panels, partial, places, a, K, panel, stride);
#endif
  using Dot = std::conditional_t<kNative, Pairs16, UnsignedWeights>;
  accumulate_codes_by<Dot>(rows, panels, partial, places, a, K, panel, stride);
}

}  // namespace fusedstep::ISA
