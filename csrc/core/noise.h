// Zoneout and recurrent dropout: which random words decide about a unit of a row at a step, and what becomes of it. The
// counters are the words' whole state, so that masks may be drawn wherever they are needed, in any order.
//
//   recurrent dropout   W_hh sees h·m/(1−p), m the same at every step         Gal and Ghahramani 2016
//   zoneout             s_t = m·s_{t−1} + (1−m)·s′, s′ what the cell gives     Krueger et al. 2017
//   without masks       m is its mean: no recurrent dropout, and zoneout mixes
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/fn.h"
#include "core/philox.h"
#include "core/table.h"

namespace fusedstep::ISA {

// What a random word is below with probability p.
FN std::uint32_t draw_threshold(double p) {
  const double threshold = p * 0x1p32;
  return std::uint32_t(threshold < 0x1p32 - 1 ? threshold : 0x1p32 - 1);
}

// What numbers the draws of a row beside its units.
struct Draw {
  std::uint32_t step, row;

  FN friend bool operator==(Draw a, Draw b) { return a.step == b.step && a.row == b.row; }
};

// Recurrent dropout: all steps alike, by the first word.
FN Draw recurrent_draw(const Noise& noise, std::size_t row) { return {0xFFFFFFFF, noise.row + std::uint32_t(row)}; }
// Zoneout: rows 2i and 2i+1 share a draw, of two words each, for h and for c.
FN Draw zoneout_draw(const Noise& noise, std::size_t step, std::size_t row) {
  return {noise.step + std::uint32_t(step), (noise.row + std::uint32_t(row)) / 2};
}
FN int zoneout_word(const Noise& noise, std::size_t row) { return 2 * int((noise.row + std::uint32_t(row)) % 2); }

// In: words[0] = the numbers of units. Out: their random words.
template <class W>
FN void draw(W (&words)[4], const Noise& noise, Draw of) {
  words[1] = of.row;
  words[2] = of.step;
  words[3] = noise.stream;
  philox(words, std::uint32_t(noise.seed), std::uint32_t(noise.seed >> 32));
}

// What a unit that recurrent dropout leaves is multiplied by.
template <class T>
FN T recurrent_scale(const Noise& noise) {
  return T(1 / (1 - noise.recurrent));
}

FN bool has_zoneout(const double* zoneout) { return zoneout[0] > 0 || zoneout[1] > 0; }

// The mean of what zoneout leaves of a state.
template <class V>
FN V zoneout_mean(double zoneout, V before, V after) {
  return zoneout > 0 ? fma(V(typename V::Scalar(zoneout)), before - after, after) : after;
}

}  // namespace fusedstep::ISA
