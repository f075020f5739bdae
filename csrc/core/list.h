// Compile-time lists of class templates: what optim/rules.h and rnn/cells.h are written in.
#pragma once

#include <array>
#include <cstddef>

namespace fusedstep {

template <template <class> class... Items>
struct TemplateList {
  static constexpr std::size_t size = sizeof...(Items);

  // {f.operator()<Items>()...}: a table with one row for each item.
  template <class F>
  static constexpr auto table(F f) {
    return std::array{f.template operator()<Items>()...};
  }
};

}  // namespace fusedstep
