// How kernels run on threads: one small pool, used by one region at a time.
//
// A region that finds the pool taken by another Python thread runs on its caller alone; no result depends on the number
// of threads. Workers spin briefly after a region (the next one often follows within microseconds), then park on a
// futex. A forked child starts with no workers and makes its own. Every body runs with IEEE rounding and with denormals
// kept, whatever mode the calling thread is in, and that mode is restored.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace fusedstep {

inline constexpr int kMaxThreads = 1024;

int num_threads();
void set_num_threads(int threads);

// While it lives, regions that this thread starts run on at most so many threads.
class ThreadLimit {
 public:
  explicit ThreadLimit(int threads);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;

 private:
  const int before_;
};
// What affinity and cgroup limits leave this process, or FUSEDSTEP_NUM_THREADS (0 where that is no count: an import
// error).
int default_num_threads();

// A running region as one of its threads sees it.
struct Team {
  int thread, threads;
  void barrier() const;  // all threads of the region; spins, so keep what lies between short
};

void run_region(int threads, void (*body)(void* context, const Team& team), void* context);

// Calls body(team) on up to `threads` threads, the calling one included, and returns when all are done.
template <class F>
void parallel(int threads, F&& body) {
  using Body = std::remove_reference_t<F>;
  run_region(threads, [](void* context, const Team& team) { (*static_cast<Body*>(context))(team); },
             const_cast<void*>(static_cast<const void*>(&body)));
}

// A cache-line-aligned buffer of this thread's, valid until it asks for the same slot again; its contents are
// undefined. Slot 1 is for what the caller of a region shares with its team: the team's threads use slot 0.
void* scratch(std::size_t bytes, int slot = 0);

// This thread's share of [0, n) in whole multiples of `grain`.
struct Share {
  std::size_t begin, end;
  Share(std::size_t n, std::size_t grain, int part, int parts)
      : begin(at(n, grain, part, parts)), end(at(n, grain, part + 1, parts)) {}

 private:
  static std::size_t at(std::size_t n, std::size_t grain, int part, int parts) {
    if (part == parts) return n;
    const std::size_t grains = (n + grain - 1) / grain;
    return grains * std::size_t(part) / std::size_t(parts) * grain;
  }
};

}  // namespace fusedstep
