// Philox4x32-10, a generator without state: four random words for each counter under a key.
// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "core/fn.h"

namespace fusedstep::ISA {

// Counters in `words`, of `lanes` counters at once; random words out.
template <int lanes>
FN void philox(std::uint32_t (&words)[4][lanes], std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9, key1 += 0xBB67AE85)
    for (int i = 0; i < lanes; ++i) {
      const std::uint64_t a = std::uint64_t(0xD2511F53) * words[0][i], b = std::uint64_t(0xCD9E8D57) * words[2][i];
      const std::uint32_t w1 = words[1][i], w3 = words[3][i];
      words[0][i] = std::uint32_t(b >> 32) ^ w1 ^ key0;
      words[1][i] = std::uint32_t(b);
      words[2][i] = std::uint32_t(a >> 32) ^ w3 ^ key1;
      words[3][i] = std::uint32_t(a);
    }
}

}  // namespace fusedstep::ISA
