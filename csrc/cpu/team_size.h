// How many threads the regions took that a thread has started: what the profiler notes of a call.
#pragma once

#include <atomic>

namespace fusedstep {

// How many profiles are open. Regions are noted while there is one.
inline std::atomic<int> open_profiles{0};

// The most threads of a region that this thread has started since it was last asked; 0 where it has started none.
int largest_team();

}  // namespace fusedstep
