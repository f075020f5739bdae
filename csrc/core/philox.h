// Philox4x32-10, a generator without state: four random words for each counter under a key.
// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "core/fn.h"

namespace fusedstep::ISA {

// Counters in, random words out, each in the lower half of a 64-bit lane of W. The upper halves are of no account:
// `low_product` multiplies the lower one by a constant of 32 bits.
template <class W>
FN void philox(W (&words)[4], std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9, key1 += 0xBB67AE85) {
    const W a = low_product(words[0], 0xD2511F53), b = low_product(words[2], 0xCD9E8D57);
    words[0] = (b >> 32) ^ words[1] ^ W(key0);
    words[1] = b;
    words[2] = (a >> 32) ^ words[3] ^ W(key1);
    words[3] = a;
  }
}

}  // namespace fusedstep::ISA
