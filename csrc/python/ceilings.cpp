// What the machine can do at best, measured by loops over the kernels' own vectors: fused multiply-adds a second, and
// bytes a second from a level of the caches or from memory.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <string>

#include "core/table.h"
#include "cpu/memory.h"
#include "cpu/threads.h"
#include "python/arrays.h"
#include "python/bind.h"

namespace fusedstep::python {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Amounts of `work(thread)` a second that threads with equal shares get done, about so many seconds long: as many times
// what the slowest does, since kernels give each thread an equal share and end with the last one. `begin` comes first,
// once a thread, and is not timed.
template <class Begin, class Work>
double rate(int threads, double seconds, Begin begin, Work work) {
  double slowest = std::numeric_limits<double>::infinity();
  std::mutex mutex;
  parallel(threads, [&](const Team& team) {
    begin(team.thread);
    team.barrier();
    const auto start = Clock::now();
    double own = 0;
    do own += work(team.thread);  // once even where there is no time
    while (since(start) < seconds);
    const double taken = since(start);
    const std::lock_guard<std::mutex> lock(mutex);
    slowest = std::min(slowest, own / taken);
  });
  return slowest * threads;
}

// GFLOP/s of fused multiply-adds on registers.
double fma_peak(const py::object& dtype, double seconds, int threads) {
  const auto loop = table(dtype_of(dtype)).fma_loop;
  const py::gil_scoped_release release;
  return rate(threads ? threads : num_threads(), seconds, [](int) {}, [&](int) { return loop(64); }) / 1e9;
}

// A loop over as many arrays of float32: an element moves so many bytes.
struct Stream {
  const char* name;
  std::size_t arrays, moved;
  void (*run)(float* const* arrays, std::size_t n);
};
constexpr Stream streams[] = {
    // A triad whose sums stay in L1: two arrays are read, as a row reads two panels of weights at once.
    {"read", 2, 8,
     [](float* const* a, std::size_t n) {
  constexpr std::size_t kBlock = 64 * kStreamGrain;
  alignas(64) thread_local float sums[kBlock];
  for (std::size_t at = 0; at < n; at += kBlock) table().triad(a[0] + at, a[1] + at, sums, std::min(kBlock, n - at));
}},
    {"copy", 2, 8, [](float* const* a, std::size_t n) { table().copy(a[0], a[1], n); }},
    {"triad", 3, 12, [](float* const* a, std::size_t n) { table().triad(a[0], a[1], a[2], n); }},
    // Adam's bytes: a gradient is read, a parameter and two states are read and written.
    {"update", 4, 28,
     [](float* const* a, std::size_t n) {
  static const RuleEntry& touch = *[] {
    const RuleEntry* rule = table().rules;
    while (std::strcmp(rule->name, "touch2") != 0) ++rule;
    return rule;
  }();
  constexpr unsigned char rule[kRuleBytes] = {};
  touch.step(rule, 1, false, {a[1], a[0], {a[2], a[3]}}, 0, n);
}},
};

// GB/s of a loop over arrays that take so many bytes a thread, all together.
double bandwidth(const std::string& name, std::size_t bytes, double seconds, int threads) {
  constexpr std::size_t kLine = 64;
  for (const Stream& stream : streams) {
    if (stream.name != name) continue;
    // The arrays of a thread lie a few lines further apart than their size, as powers of two would share cache sets.
    const std::size_t n = std::max(bytes / (stream.arrays * sizeof(float)) / kStreamGrain * kStreamGrain, kStreamGrain);
    const std::size_t stride = n + 5 * kLine / sizeof(float), own = stream.arrays * stride * sizeof(float);
    const std::size_t passes = std::max<std::size_t>(1, (std::size_t(1) << 18) / own);
    const py::gil_scoped_release release;
    char* const memory = static_cast<char*>(allocate(own * std::size_t(threads)));
    if (!memory) throw std::bad_alloc();
    const auto of = [&](int thread) { return memory + own * std::size_t(thread); };
    const double moved = rate(threads, seconds, [&](int thread) { std::memset(of(thread), 0, own); }, [&](int thread) {
      float* arrays[4];
      for (std::size_t i = 0; i < stream.arrays; ++i) arrays[i] = reinterpret_cast<float*>(of(thread)) + i * stride;
      for (std::size_t i = 0; i < passes; ++i) stream.run(arrays, n);
      return double(passes * n * stream.moved);
    });
    std::free(memory);
    return moved / 1e9;
  }
  throw py::key_error("no stream is called " + name);
}

// Seconds that a region of so many barriers takes on so many threads, when one follows the other. As a cell's step
// does, its caller writes arguments first, and every thread reads them.
double meeting(int barriers, double seconds, int threads) {
  const py::gil_scoped_release release;
  std::array<std::uint64_t, sizeof(CellForward) / sizeof(std::uint64_t)> arguments;
  const auto start = Clock::now();
  std::size_t regions = 0;
  do {
    for (int i = 0; i < 16; ++i) {
      arguments.fill(regions + std::size_t(i));
      parallel(threads, [barriers, &arguments](const Team& team) {
        [[maybe_unused]] thread_local volatile std::uint64_t sum;  // or nothing would be read
        sum = std::accumulate(arguments.begin(), arguments.end(), std::uint64_t(0));
        for (int j = 0; j < barriers; ++j) team.barrier();
      });
    }
    regions += 16;
  } while (since(start) < seconds);
  return since(start) / double(regions);
}

// Of one barrier: without it, the caller may have done every part before a worker is there.
double region(double seconds, int threads) { return meeting(1, seconds, threads); }

// Of each further barrier.
double barrier(double seconds, int threads) {
  constexpr int kBarriers = 64;
  return meeting(kBarriers, seconds, threads) / kBarriers;
}

}  // namespace

void bind_ceilings(py::module_& module) {
  module.def("fma_peak", &fma_peak, py::arg("dtype"), py::arg("seconds"), py::arg("threads") = 0);
  module.def("bandwidth", &bandwidth);
  module.def("region", &region);
  module.def("barrier", &barrier);
}

}  // namespace fusedstep::python
