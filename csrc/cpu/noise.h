// Zoneout and recurrent dropout of vectors of units, as core/noise.h has them. Masks are drawn where they are needed:
// none is kept, and threads, lengths and directions show in none.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/noise.h"
#include "core/table.h"
#include "cpu/simd.h"

namespace fusedstep::ISA {

// Random words for the units of a vector from `unit` on.
template <class T>
class Draws {
  static constexpr int N = Vec<T>::size;

 public:
  Draws() = default;
  __attribute__((noinline)) Draws(const Noise& noise, Draw of, std::size_t unit) {
    for (int part = 0; part < N / Words::size; ++part) {
      for (int i = 0; i < Words::size; ++i) words_[part][0].raw[i] = unit + std::size_t(part * Words::size + i);
      draw(words_[part], noise, of);
    }
  }
  // Lanes that are drawn with probability p, by one of the words.
  FN Bits<Vec<T>> drawn(int word, double p) const {
    const std::uint32_t threshold = draw_threshold(p);
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
  const Draws<T> draws(noise, recurrent_draw(noise, row), unit);
  return select(draws.drawn(0, noise.recurrent), V(T(0)), V(recurrent_scale<T>(noise)));
}

// Which units of each state zoneout leaves as they were. The last draw is kept: two rows share it.
template <class T>
class Stays {
 public:
  FN void look_at(const Noise& noise, std::size_t step, std::size_t row, std::size_t unit) {
    const Draw now = zoneout_draw(noise, step, row);
    if (noise.stream != stream_ || !(now == draw_) || unit != unit_) {
      draws_ = Draws<T>(noise, now, unit);
      stream_ = noise.stream, draw_ = now, unit_ = unit;
    }
    for (int i = 0; i < 2; ++i) of[i] = draws_.drawn(zoneout_word(noise, row) + i, noise.zoneout[i]);
  }

  // The gradient of a state after zoneout, in two parts: what the cell passes on, and what stayed.
  FN void split(int state, Vec<T>& d, Vec<T>& stayed) const {
    const Vec<T> zero(T(0)), all = d;
    d = select(of[state], zero, all);
    stayed = select(of[state], all, zero);
  }

  Bits<Vec<T>> of[2];

 private:
  Draws<T> draws_;
  std::uint32_t stream_ = 0;
  Draw draw_{};
  std::size_t unit_ = std::size_t(-1);
};

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
