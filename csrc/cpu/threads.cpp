#include "cpu/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/memory.h"
#include "cpu/team_size.h"

namespace fusedstep {
namespace {

constexpr int kSpins = 4000;  // 20 to 60 µs of pauses before a waiter parks

void pause() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Round to nearest, denormals kept, exceptions masked; the caller's mode and flags come back at the end.
class IeeeMode {
 public:
#if defined(__SSE2__)
  IeeeMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~IeeeMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  IeeeMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(std::uint64_t(0)));
  }
  ~IeeeMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  std::uint64_t saved_;
#endif
};

// Spins on `value` until it differs from `old`, then parks.
template <class T>
void await_change(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

struct alignas(64) Worker {
  std::atomic<std::uint32_t> ticket{0};  // raised once for every region that this worker takes part in
};

struct Pool {
  std::mutex busy;
  std::vector<std::unique_ptr<Worker>> workers;

  // The region that runs. Its parts are claimed one by one, `unclaimed` falling to 0 and below: a worker that the
  // system has not scheduled yet is not waited for, its part is done by whoever is free. Who claims a part may read the
  // rest, which stays as it is until every claimed part is finished.
  void (*body)(void*, const Team&) = nullptr;
  void* context = nullptr;
  int threads = 1;
  alignas(64) std::atomic<int> unclaimed{0};
  alignas(64) std::atomic<int> unfinished{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<std::uint32_t> phase{0};

  // No one claims a second part of a region with barriers before all of them are claimed: its own waits at the barrier.
  void take_parts() {
    IeeeMode mode;
    for (int part; (part = unclaimed.fetch_sub(1, std::memory_order_acq_rel) - 1) >= 0;) {
      body(context, Team{part, threads});
      if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_one();
    }
  }

  void work(Worker& worker) {
    for (std::uint32_t seen = 0;;) {
      await_change(worker.ticket, seen);
      seen = worker.ticket.load(std::memory_order_acquire);
      take_parts();
    }
  }

  // As many of the wanted workers as the system gives.
  int grow(int wanted) {
    while (int(workers.size()) < wanted) {
      workers.push_back(std::make_unique<Worker>());
      Worker& worker = *workers.back();
      try {
        std::thread([this, &worker] { work(worker); }).detach();
      } catch (...) {
        workers.pop_back();
        break;
      }
    }
    return std::min(wanted, int(workers.size()));
  }

  void run(int wanted, void (*function)(void*, const Team&), void* argument) {
    const int helpers = grow(wanted - 1);
    body = function;
    context = argument;
    threads = helpers + 1;
    arrived.store(0, std::memory_order_relaxed);
    unfinished.store(threads, std::memory_order_relaxed);
    unclaimed.store(threads, std::memory_order_release);
    for (int i = 0; i < helpers; ++i) {
      workers[std::size_t(i)]->ticket.fetch_add(1, std::memory_order_release);
      workers[std::size_t(i)]->ticket.notify_one();
    }
    take_parts();
    for (int left; (left = unfinished.load(std::memory_order_acquire)) != 0;) await_change(unfinished, left);
  }
};

// Replaced, not repaired, in a forked child: the old one's threads do not exist there and its lock may be held.
Pool* pool = new Pool;
std::atomic<int> chosen_threads{0};
thread_local int thread_limit = kMaxThreads;
thread_local int largest = 0;

void note_team(int threads) {
  if (open_profiles.load(std::memory_order_relaxed)) [[unlikely]]
    largest = std::max(largest, threads);
}

void forget_pool() { pool = new Pool; }
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, forget_pool);

// The CPUs that a cgroup's quota pays for, rounded up; a large number where there is none.
int cgroup_limit() {
#if defined(__linux__)
  const auto read = [](const std::string& path) {
    std::string text(4096, '\0');
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (!file) return std::string();
    text.resize(std::fread(text.data(), 1, text.size(), file));
    std::fclose(file);
    return text;
  };
  int limit = kMaxThreads;
  const auto apply = [&](double quota, double period) {
    if (quota > 0 && period > 0) limit = std::min(limit, std::max(1, int(quota / period + 0.999)));
  };
  // Version 2: every level from the process's own group to the root may set one.
  const std::string groups = read("/proc/self/cgroup");
  if (const auto at = groups.find("0::"); at != std::string::npos) {
    std::string path = groups.substr(at + 3, groups.find('\n', at) - at - 3);
    for (;; path.erase(path.rfind('/'))) {
      double quota = 0, period = 0;
      if (std::sscanf(read("/sys/fs/cgroup" + path + "/cpu.max").c_str(), "%lf %lf", &quota, &period) == 2)
        apply(quota, period);
      if (path.empty() || path.find('/') == std::string::npos) break;
    }
  }
  const std::string version1 = "/sys/fs/cgroup/cpu/";
  apply(std::atof(read(version1 + "cpu.cfs_quota_us").c_str()),
        std::atof(read(version1 + "cpu.cfs_period_us").c_str()));
  return limit;
#else
  return kMaxThreads;
#endif
}

int affinity_limit() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

}  // namespace

int default_num_threads() {
  if (const char* text = std::getenv("FUSEDSTEP_NUM_THREADS")) {
    char* end;
    const long threads = std::strtol(text, &end, 10);
    return *text && !*end && threads >= 1 && threads <= kMaxThreads ? int(threads) : 0;
  }
  return std::min({affinity_limit(), cgroup_limit(), kMaxThreads});
}

int num_threads() {
  int threads = chosen_threads.load(std::memory_order_relaxed);
  if (threads == 0) chosen_threads.store(threads = default_num_threads(), std::memory_order_relaxed);
  return std::min(threads, thread_limit);
}

ThreadLimit::ThreadLimit(int threads) : before_(thread_limit) { thread_limit = threads; }
ThreadLimit::~ThreadLimit() { thread_limit = before_; }

void set_num_threads(int threads) { chosen_threads.store(threads, std::memory_order_relaxed); }

void Team::barrier() const {
  if (threads == 1) return;
  const std::uint32_t phase = pool->phase.load(std::memory_order_acquire);
  if (pool->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    pool->arrived.store(0, std::memory_order_relaxed);
    pool->phase.fetch_add(1, std::memory_order_release);
    pool->phase.notify_all();
  } else {
    await_change(pool->phase, phase);
  }
}

void run_region(int threads, void (*body)(void*, const Team&), void* context) {
  if (threads > 1) {
    std::unique_lock<std::mutex> lock(pool->busy, std::try_to_lock);
    if (lock) {
      pool->run(threads, body, context);
      note_team(pool->threads);
      return;
    }
  }
  note_team(1);
  IeeeMode mode;
  body(context, Team{0, 1});
}

int largest_team() { return std::exchange(largest, 0); }

void* scratch(std::size_t bytes, int slot) {
  struct Buffer {
    void* data = nullptr;
    std::size_t capacity = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffers[2];
  Buffer& buffer = buffers[slot];
  if (bytes > buffer.capacity) {
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    std::free(buffer.data);  // the old contents need not survive
    buffer = {nullptr, 0};
    buffer.data = allocate(rounded);
    if (!buffer.data) std::abort();
    buffer.capacity = rounded;
  }
  return buffer.data;
}

}  // namespace fusedstep
