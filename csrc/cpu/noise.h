// Zoneout and recurrent dropout. Masks are drawn where they are needed, from the counters of step, row and unit, so
// that none is kept and threads, lengths and directions show in none.
//
//   recurrent dropout   W_hh sees h·m/(1−p), m the same at every step         Gal and Ghahramani 2016
//   zoneout             s_t = m·s_{t−1} + (1−m)·s′, s′ what the cell gives     Krueger et al. 2017
//   without masks       m is its mean: no recurrent dropout, and zoneout mixes
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/philox.h"
#include "core/table.h"
#include "cpu/simd.h"

namespace fusedstep::ISA {

inline constexpr std::uint32_t kEveryStep = 0xFFFFFFFF;

// Random words for the units of a vector from `unit` on.
template <class T>
class Draws {
  static constexpr int N = Vec<T>::size;

 public:
  Draws() = default;
  __attribute__((noinline)) Draws(const Noise& noise, std::uint32_t step, std::uint32_t row, std::size_t unit) {
    for (int part = 0; part < N / Words::size; ++part) {
      Words(&words)[4] = words_[part];
      for (int i = 0; i < Words::size; ++i) words[0].raw[i] = unit + std::size_t(part * Words::size + i);
      words[1] = row;
      words[2] = step;
      words[3] = noise.stream;
      philox(words, std::uint32_t(noise.seed), std::uint32_t(noise.seed >> 32));
    }
  }
  // Lanes that are drawn with probability p, by one of the words.
  FN Bits<Vec<T>> drawn(int word, double p) const {
    const auto threshold = std::uint32_t(std::min(p * 0x1p32, 0x1p32 - 1));
    Bits<Vec<T>> lanes;
    for (int i = 0; i < N; ++i) lanes[i] = -(words_[i / Words::size][word][i % Words::size] < threshold);
    return lanes;
  }

 private:
  Words words_[N / Words::size][4];
};

// What multiplies h before W_hh.
template <class T>
Vec<T> recurrent_mask(const Noise& noise, std::size_t row, std::size_t unit) {
  using V = Vec<T>;
  const Draws<T> draws(noise, kEveryStep, noise.row + std::uint32_t(row), unit);
  return select(draws.drawn(0, noise.recurrent), V(T(0)), V(T(1 / (1 - noise.recurrent))));
}

// Which units of each state zoneout leaves as they were. Rows 2i and 2i+1 share a draw, of two words each: the last one
// is kept.
template <class T>
class Stays {
 public:
  FN void look_at(const Noise& noise, std::size_t step, std::size_t row, std::size_t unit) {
    const std::uint32_t t = noise.step + std::uint32_t(step), r = noise.row + std::uint32_t(row);
    if (noise.stream != stream_ || t != step_ || r / 2 != pair_ || unit != unit_) {
      draws_ = Draws<T>(noise, t, r / 2, unit);
      stream_ = noise.stream, step_ = t, pair_ = r / 2, unit_ = unit;
    }
    for (int i = 0; i < 2; ++i) of[i] = draws_.drawn(2 * int(r % 2) + i, noise.zoneout[i]);
  }

  Bits<Vec<T>> of[2];

 private:
  Draws<T> draws_;
  std::uint32_t stream_ = 0, step_ = 0, pair_ = 0;
  std::size_t unit_ = std::size_t(-1);
};

FN bool has_zoneout(const double* zoneout) { return zoneout[0] > 0 || zoneout[1] > 0; }

// The mean of what zoneout leaves of a state.
template <class V>
FN V zoneout_mean(double zoneout, V before, V after) {
  return zoneout > 0 ? fma(V(typename V::Scalar(zoneout)), before - after, after) : after;
}

// after ← what zoneout makes of it, for states [first, last).
template <class V>
FN void zone_out(Stays<typename V::Scalar>& stays, const Noise& noise, std::size_t step, std::size_t row,
                 std::size_t unit, int first, int last, const V* before, V* after) {
  if (noise.drawn) {
    stays.look_at(noise, step, row, unit);
    for (int i = first; i < last; ++i) after[i] = select(stays.of[i], before[i], after[i]);
  } else {
    for (int i = first; i < last; ++i) after[i] = zoneout_mean(noise.zoneout[i], before[i], after[i]);
  }
}

}  // namespace fusedstep::ISA
