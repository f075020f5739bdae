// How many threads the regions took that a thread has started: what the profiler notes of a call.
#pragma once

namespace fusedstep {

// The most threads of a region that this thread has started since it was last asked; 0 where it has started none.
int largest_team();

}  // namespace fusedstep
