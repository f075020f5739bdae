// Memory for kernels: aligned to a cache line, and on huge pages where it is large (packed weights that lie on small
// ones were seen to cost a sequence 7 % of its time).
#pragma once

#include <cstddef>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedstep {

inline constexpr std::size_t kHugePage = std::size_t(2) << 20;

// Advice: without huge pages the memory is as good, only slower.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
}

// To be freed with std::free; null where there is none.
inline void* allocate(std::size_t bytes) {
  const std::size_t page = bytes >= kHugePage ? kHugePage : 64, rounded = (bytes + page - 1) / page * page;
  void* const data = std::aligned_alloc(page, rounded);
  if (data && page == kHugePage) advise_huge_pages(data, rounded);
  return data;
}

}  // namespace fusedstep
