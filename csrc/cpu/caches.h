// How large the caches are, and what that means for a result that a call writes once.
#pragma once

#include <cstddef>

namespace fusedstep {

// Whether so many bytes are written past the caches: from half of the last level on. The call has read as much
// beside them, so that what comes next finds the last part of them there at most, and reads them from the first one on.
bool past_caches(std::size_t bytes);

// For tests: from how many bytes on results are written past the caches, 0 as above. Returns what it was.
std::size_t stream_from(std::size_t bytes);

}  // namespace fusedstep
