// Compile-time lists of class templates: what optim/rules.h and rnn/cells.h are written in.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

namespace fusedstep {

template <template <class> class... Items>
struct TemplateList {
  static constexpr std::size_t size = sizeof...(Items);

  // {f.operator()<Items>()...}: a table with one row for each item.
  template <class F>
  static constexpr auto table(F f) {
    return std::array{f.template operator()<Items>()...};
  }
  // The same over the items' instances: f is given a std::type_identity of each.
  template <class T, class F>
  static constexpr auto table_of(F f) {
    return std::array{f(std::type_identity<Items<T>>{})...};
  }
};

}  // namespace fusedstep
