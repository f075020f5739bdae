// Lane<T>: the V of one CUDA thread, a single float or double. Rules, cells and core/math.h are written over it as over
// the CPU's Vec<T> (cpu/simd.h), and give the same bits: IEEE operations, each rounded once (no contraction, no
// flushing of subnormals, correctly rounded ÷ and √ are the compiler's defaults but for the first, which --fmad=false
// sets).
//
// Device code may use the values of a class's constexpr arrays, not the arrays: inside unroll<n>([&](auto j) {…}),
// `constexpr int slot = Cell::state_slot[j];` is a value.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/fn.h"
#include "core/vector.h"

namespace fusedstep::ISA {

template <class T>
struct Lane {
  using Scalar = T;
  using Raw = T;
  using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  static constexpr int size = 1;

  T raw;

  Lane() = default;
  FN Lane(T x) : raw(x) {}

  FN static Lane number(Bits bits) { return T(bits); }

  FN friend Lane operator+(Lane a, Lane b) { return a.raw + b.raw; }
  FN friend Lane operator-(Lane a, Lane b) { return a.raw - b.raw; }
  FN friend Lane operator*(Lane a, Lane b) { return a.raw * b.raw; }
  FN friend Lane operator/(Lane a, Lane b) { return a.raw / b.raw; }
  FN friend Lane operator-(Lane a) { return -a.raw; }

  FN friend bool operator<(Lane a, Lane b) { return a.raw < b.raw; }
  FN friend bool operator>(Lane a, Lane b) { return a.raw > b.raw; }
  FN friend bool operator<=(Lane a, Lane b) { return a.raw <= b.raw; }
  FN friend bool operator>=(Lane a, Lane b) { return a.raw >= b.raw; }
  FN friend bool operator==(Lane a, Lane b) { return a.raw == b.raw; }
  FN friend bool operator!=(Lane a, Lane b) { return a.raw != b.raw; }

  FN friend Lane select(bool mask, Lane a, Lane b) { return mask ? a.raw : b.raw; }
  FN friend Lane sqrt(Lane a) { return std::sqrt(a.raw); }
  FN friend Lane fma(Lane a, Lane b, Lane c) { return std::fma(a.raw, b.raw, c.raw); }
};

// The W of core/philox.h: a word of 32 bits in the lower half of 64.
struct Word {
  std::uint64_t raw;

  Word() = default;
  FN Word(std::uint32_t x) : raw(x) {}

  FN friend Word operator^(Word a, Word b) { return from(a.raw ^ b.raw); }
  FN friend Word operator>>(Word a, int n) { return from(a.raw >> n); }
  // The lower half times b.
  FN friend Word low_product(Word a, std::uint32_t b) { return from((a.raw & 0xFFFFFFFF) * b); }
  FN std::uint32_t operator*() const { return std::uint32_t(raw); }

 private:
  FN static Word from(std::uint64_t raw) {
    Word word;
    word.raw = raw;
    return word;
  }
};

}  // namespace fusedstep::ISA
