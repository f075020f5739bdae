// The scheduler, as the runtime's functions see it.
#pragma once

#include <cstddef>
#include <functional>

#include "cuda_host/vectors.h"

namespace cuda_host {

// Runs `thread` for each thread of a grid. Throws std::runtime_error where they do what CUDA does not allow.
void run_grid(const dim3& grid, const dim3& shape, std::size_t dynamic_bytes, bool cooperative,
              const std::function<void()>& thread);

}  // namespace cuda_host
