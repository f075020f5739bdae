#include "cpu/caches.h"

#include <unistd.h>

#include <atomic>

namespace fusedstep {
namespace {

std::atomic<std::size_t> chosen{0};

// What the system tells of a cache, or what most machines have.
[[maybe_unused]] std::size_t told(int name, std::size_t usual) {
  const long bytes = sysconf(name);
  return bytes > 0 ? std::size_t(bytes) : usual;
}
constexpr std::size_t kMiB = 1 << 20;

std::size_t last_level() {
#ifdef _SC_LEVEL3_CACHE_SIZE
  static const std::size_t bytes = told(_SC_LEVEL3_CACHE_SIZE, 32 * kMiB);
  return bytes;
#else
  return 32 * kMiB;
#endif
}

}  // namespace

bool past_caches(std::size_t bytes) {
  const std::size_t from = chosen.load(std::memory_order_relaxed);
  return bytes >= (from ? from : last_level() / 2);
}

std::size_t stream_from(std::size_t bytes) { return chosen.exchange(bytes, std::memory_order_relaxed); }

}  // namespace fusedstep
