// What an optimizer's step did, for the profiler: a record for each rule, dtype and set of options of its tensors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "python/record.h"

namespace fusedstep::python {

template <class D>
class StepParts {
 public:
  // A tensor. `rule` is the same pointer each time.
  void add(const char* rule, D dtype, std::uint32_t options, std::size_t elements) {
    auto found = std::find_if(parts_.begin(), parts_.end(), [&](const Part& part) {
      return part.rule == rule && part.dtype == dtype && part.options == options;
    });
    if (found == parts_.end()) found = parts_.insert(found, {rule, dtype, options, 0, 0});
    ++found->tensors;
    found->elements += std::int64_t(elements);
  }
  // to(rule, dtype, options, tensors, elements) for each; `options` are the whole step's, and all but the first say
  // that they go on with it.
  template <class F>
  void give(std::uint32_t options, F to) const {
    for (const Part& part : parts_) {
      to(part.rule, part.dtype, options | part.options, part.tensors, part.elements);
      options |= option::more;
    }
  }

 private:
  struct Part {
    const char* rule;
    D dtype;
    std::uint32_t options;
    std::int64_t tensors, elements;
  };
  std::vector<Part> parts_;
};

}  // namespace fusedstep::python
