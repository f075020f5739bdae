// βᵗ for whole t ≥ 0, rounded correctly but for one case in billions: the same on every C library and on the device,
// whose own pow differ by an ULP now and then.
//
//   βᵗ = Π of β^(2^k) over the bits k of t, each factor and the product a sum of two doubles hi + lo
//
// hi·hi = product + error exactly, by fma (Dekker, "A floating-point technique for extending the available precision",
// 1971). lo is never carried into hi: it grows to t·2^-53 of it, and its own rounding to t·2^-106.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/fn.h"

namespace fusedstep::ISA {

FN double power(double base, double t) {
  double hi = 1, lo = 0, factor = base, factor_lo = 0;
  for (auto bits = std::uint64_t(t < 0x1p63 ? t : 0x1p63); bits;) {
    if (bits & 1) {
      const double product = hi * factor, error = std::fma(hi, factor, -product);
      lo = std::fma(hi + lo, factor_lo, std::fma(lo, factor, error));
      hi = product;
    }
    bits >>= 1;
    const double square = factor * factor, error = std::fma(factor, factor, -square);
    factor_lo = std::fma(factor + factor + factor_lo, factor_lo, error);
    factor = square;
  }
  return hi + lo;
}

}  // namespace fusedstep::ISA
