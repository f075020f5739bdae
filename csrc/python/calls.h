// What long calls need: to end by Ctrl-C.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "python/arrays.h"

namespace fusedstep::python {

// Runs f(first, last) over [0, n), or from its end down, without the GIL, in parts of about a tenth of a second, and
// lets Python handle signals in between: Ctrl-C ends a long call. How long parts are shows in no result. The first one
// is short.
template <class F>
void interruptible(std::size_t n, double flops_each, bool backwards, F f) {
  constexpr double first_flops = 2e8, seconds = 0.1;
  using Clock = std::chrono::steady_clock;
  const auto whole = [](double part) { return std::max<std::size_t>(std::size_t(part), 1); };
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

}  // namespace fusedstep::python
