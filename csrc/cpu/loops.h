// The elementwise loops: a rule over one tensor's elements, sums of squares, and a plain function over an array.
// `Storage` types may differ from the arithmetic type T; load() and store() convert.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/norm.h"
#include "core/philox.h"
#include "core/table.h"
#include "cpu/simd.h"
#include "cpu/sums.h"

namespace fusedstep::ISA {

template <template <class> class Rule, class T, class P = T, class G = T, class S = T>
void update(const void* prepared, double grad_scale, bool zero, const Tensor& tensor, std::size_t begin,
            std::size_t end) {
  using V = Vec<T>;
  const Rule<T> rule = *static_cast<const Rule<T>*>(prepared);
  const V scale = V(T(grad_scale));
  P* const p = static_cast<P*>(tensor.p);
  G* const g = static_cast<G*>(tensor.g);

  const auto run = [&]<std::size_t... i>(std::index_sequence<i...>) __attribute__((always_inline)) {
    S* const state[] = {static_cast<S*>(tensor.state[i])...};
    std::size_t at = begin;
    for (; at + V::size <= end; at += V::size) {
      V param = load<T>(p + at), s[] = {load<T>(state[i] + at)...};
      rule(param, load<T>(g + at) * scale, s[i]...);
      store(p + at, param);
      (store(state[i] + at, s[i]), ...);
      if (zero) store(g + at, V(T(0)));
    }
    if (const int n = int(end - at)) {
      V param = load_n<T>(p + at, n), s[] = {load_n<T>(state[i] + at, n)...};
      rule(param, load_n<T>(g + at, n) * scale, s[i]...);
      store_n(p + at, param, n);
      (store_n(state[i] + at, s[i], n), ...);
      if (zero) store_n(g + at, V(T(0)), n);
    }
  };
  run(std::make_index_sequence<std::size_t(Rule<T>::states)>{});
}

// Sums of blocks [begin, end), in the order of core/norm.h.
template <class T, class G = T>
void square_sums(const void* g, std::size_t n, double scale, double* sums, std::size_t begin, std::size_t end) {
  static_assert(LaneSum::lanes == kNormLanes);
  for (std::size_t block = begin; block < end; ++block) {
    const std::size_t first = block * kNormBlock;
    LaneSum sum;
    sum.add(static_cast<const G*>(g) + first, std::min(kNormBlock, n - first),
            [scale](auto x) __attribute__((always_inline)) {
      x = x * decltype(x)(scale);
      return x * x;
    });
    sums[block] = sum.total();
  }
}

template <class T, class F>
void map(const void* x, void* y, std::size_t n, F f) {
  using V = Vec<T>;
  const T* const from = static_cast<const T*>(x);
  T* const to = static_cast<T*>(y);
  std::size_t at = 0;
  for (; at + V::size <= n; at += V::size) store(to + at, f(load<T>(from + at)));
  if (const int rest = int(n - at)) store_n(to + at, f(load_n<T>(from + at, rest)), rest);
}

// Memory's ceilings, over a multiple of any vector's size: to ← from, and a ← b + s·c, the last loop of McCalpin's
// STREAM.
template <class T>
void copy(const void* from, void* to, std::size_t n) {
  for (std::size_t at = 0; at < n; at += Vec<T>::size)
    store(static_cast<T*>(to) + at, load<T>(static_cast<const T*>(from) + at));
}
template <class T>
void triad(const void* b, const void* c, void* a, std::size_t n) {
  for (std::size_t at = 0; at < n; at += Vec<T>::size) {
    const Vec<T> product = Vec<T>(T(3)) * load<T>(static_cast<const T*>(c) + at);
    store(static_cast<T*>(a) + at, load<T>(static_cast<const T*>(b) + at) + product);
  }
}

// FLOPs of `rounds` × 512 × kChains vector fused multiply-adds that wait for none but their own chain's: the compute
// ceiling.
template <class T>
double fma_loop(std::size_t rounds) {
  using V = Vec<T>;
  constexpr int kChains = kRegisters / 2 + kRegisters / 4;
  static volatile T opaque[3] = {T(0.999), T(0.001)};  // unknown to the compiler
  const V a(opaque[0]), b(opaque[1]);
  V sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = V(T(i));
  for (std::size_t r = 0; r < rounds * 512; ++r)  // unrolled, or the sums lie in memory
    unroll<kChains>([&](auto i) __attribute__((always_inline)) { sums[i] = fma(sums[i], a, b); });
  for (auto& sum : sums) opaque[2] = sum.raw[0];
  return double(rounds) * 512 * kChains * V::size * 2;
}

// A row's n elements times 1/(1−p), or zero with probability p: a mask that depends on the seed, on which layer, step
// and row it is, and on the element's place in it. Elements 4i … 4i+3 take the words of counter i.
template <class T>
void dropout(const void* x, void* y, std::size_t n, double p, const DropoutKey& key) {
  const auto threshold = std::uint32_t(std::min(p * 0x1p32, 0x1p32 - 1));
  const T scale = T(1 / (1 - p));
  const T* const from = static_cast<const T*>(x);
  T* const to = static_cast<T*>(y);
  constexpr std::size_t width = 4 * Words::size;
  for (std::size_t at = 0; at < n; at += width) {
    Words words[4] = {Words(0), Words(key.row), Words(key.step), Words(key.layer)};
    for (int i = 0; i < Words::size; ++i) words[0].raw[i] = at / 4 + std::size_t(i);
    philox(words, std::uint32_t(key.seed), std::uint32_t(key.seed >> 32));
    for (std::size_t i = 0; i < std::min(width, n - at); ++i)
      to[at + i] = words[i % 4][int(i / 4)] < threshold ? T(0) : from[at + i] * scale;
  }
}

}  // namespace fusedstep::ISA
