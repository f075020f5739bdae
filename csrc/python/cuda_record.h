// A call on a GPU for the profiler's record, out of compiled code: fusedstep._record has the events. While no profile
// is open it costs one relaxed load and a branch.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <initializer_list>

#include "cuda/device.h"

namespace fusedstep::python {

// How many profiles are open: fusedstep._core's count, whose address it gives.
inline const std::atomic<int>* open_profiles_of_core = nullptr;

class GpuRecording {
 public:
  // From here on.
  explicit GpuRecording(const pybind11::object& device) {
    if (open_profiles_of_core->load(std::memory_order_relaxed)) [[unlikely]]
      recording_ = device.attr("recording")();
  }
  explicit operator bool() const { return recording_ && !recording_.is_none(); }
  // To the first call of this.
  void add(const char* kind, const char* method, cuda::Format format, std::uint32_t options,
           std::initializer_list<std::int64_t> n) const {
    pybind11::list numbers;
    for (const std::int64_t number : n) numbers.append(number);
    recording_.attr("add")(kind, method, cuda::name_of(format), options, numbers);
  }

 private:
  pybind11::object recording_;
};

}  // namespace fusedstep::python
