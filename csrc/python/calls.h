// What long calls need: to end by Ctrl-C, and memory that the next call finds again.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#include "cpu/memory.h"
#include "python/arrays.h"

namespace fusedstep::python {

// Runs f(first, last) over [0, n), or from its end down, without the GIL, in parts of about a tenth of a second, and
// lets Python handle signals in between: Ctrl-C ends a long call. Parts begin at multiples of `grain`; how long they
// are shows in no result. The first one is short.
template <class F>
void interruptible(std::size_t n, std::size_t grain, double flops_each, bool backwards, F f) {
  constexpr double first_flops = 2e8, seconds = 0.1;
  using Clock = std::chrono::steady_clock;
  const auto whole = [&](double part) { return std::max<std::size_t>(std::size_t(part) / grain, 1) * grain; };
  std::size_t part = whole(first_flops / std::max(flops_each, 1.0));
  for (std::size_t done = 0, now; done < n; done += now) {
    now = std::min(part, n - done);
    const std::size_t first = backwards ? n - done - now : done;
    const auto start = Clock::now();
    {
      const py::gil_scoped_release release;
      f(first, first + now);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    part = whole(double(now) * std::clamp(seconds / std::max(took, 1e-9), 0.1, 100.0));
  }
}

// Memory for one call, kept for this thread's next one where it is not large: fresh pages cost as much as packing
// weights into them.
class Room {
 public:
  enum Use { packed_weights, rows, uses };

  Room(std::size_t bytes, Use use) : use_(use) {
    std::swap(block_, spare());
    if (block_.capacity >= bytes) return;
    std::free(block_.data);
    block_ = {allocate(bytes), bytes};
    if (!block_.data) throw std::bad_alloc();
  }
  ~Room() {
    constexpr std::size_t large = std::size_t(64) << 20;
    if (block_.capacity <= large && block_.capacity > spare().capacity) std::swap(block_, spare());
    std::free(block_.data);
  }
  Room(const Room&) = delete;
  char* data() const { return static_cast<char*>(block_.data); }

 private:
  struct Block {
    void* data = nullptr;
    std::size_t capacity = 0;
  };
  Block& spare() const {
    struct Spare : Block {
      ~Spare() { std::free(data); }
    };
    thread_local Spare blocks[uses];
    return blocks[use_];
  }

  const Use use_;
  Block block_;
};

}  // namespace fusedstep::python
