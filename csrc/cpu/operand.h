// Consecutive elements of an operand that is broadcast to the shape of the input.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/loss.h"
#include "cpu/sums.h"

namespace fusedstep::ISA {

inline bool uniform(const Operand& operand) { return operand.data == nullptr; }

// Whether it lies in memory as the input does.
inline bool flat(const Operand& operand) {
  return operand.data && operand.element == Element::same && operand.nd == 1 && operand.stride[0] == 1;
}

// count elements `stride` apart, as T.
template <class T, class S>
void copy(const S* from, std::ptrdiff_t stride, std::size_t count, T* to) {
  if (stride == 1)
    for (std::size_t i = 0; i < count; ++i) to[i] = T(from[i]);
  else if (stride == 0)
    std::fill_n(to, count, T(*from));
  else
    for (std::size_t i = 0; i < count; ++i) to[i] = T(from[std::ptrdiff_t(i) * stride]);
}

// f(at, stride, done, count) for runs of elements [begin, begin + n): `count` elements, of which `done` went before,
// lie `stride` apart from `at` on.
template <class F>
void for_runs(const Operand& operand, std::size_t begin, std::size_t n, F f) {
  const int last = operand.nd - 1;
  std::size_t index[kMaxDims];
  std::ptrdiff_t at = 0;
  for (int d = last; d >= 0; --d) {
    index[d] = begin % operand.shape[d];
    begin /= operand.shape[d];
    at += std::ptrdiff_t(index[d]) * operand.stride[d];
  }
  for (std::size_t done = 0;;) {
    const std::size_t count = std::min(n - done, operand.shape[last] - index[last]);
    f(at, operand.stride[last], done, count);
    done += count;
    if (done == n) return;
    at -= std::ptrdiff_t(index[last]) * operand.stride[last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; --d) {
      at += operand.stride[d];
      if (++index[d] < operand.shape[d]) break;
      at -= std::ptrdiff_t(operand.shape[d]) * operand.stride[d];
      index[d] = 0;
    }
  }
}

// Elements [begin, begin + n): where they lie, or their copy in `buffer`.
template <class T>
const T* elements_of(const Operand& operand, std::size_t begin, std::size_t n, T* buffer) {
  if (uniform(operand)) {
    std::fill_n(buffer, n, T(operand.value));
    return buffer;
  }
  if (flat(operand)) return static_cast<const T*>(operand.data) + begin;
  const auto run = [&](std::ptrdiff_t at, std::ptrdiff_t stride, std::size_t count, T* to) {
    switch (operand.element) {
      case Element::same:
        return copy(static_cast<const T*>(operand.data) + at, stride, count, to);
      case Element::int32:
        return copy(static_cast<const std::int32_t*>(operand.data) + at, stride, count, to);
      case Element::int64:
        return copy(static_cast<const std::int64_t*>(operand.data) + at, stride, count, to);
      case Element::byte:
        return copy(static_cast<const std::uint8_t*>(operand.data) + at, stride, count, to);
    }
  };
  for_runs(operand, begin, n, [&](std::ptrdiff_t at, std::ptrdiff_t stride, std::size_t done, std::size_t count) {
    run(at, stride, count, buffer + done);
  });
  return buffer;
}

// Adds elements [begin, begin + n) to the doubles that are broadcast to all of them, in an order that n alone decides.
template <class T>
void add_elements(const void* elements, std::size_t begin, std::size_t n, const Operand& operand) {
  const T* const from = static_cast<const T*>(elements);
  double* const to = static_cast<double*>(const_cast<void*>(operand.data));
  for_runs(operand, begin, n, [&](std::ptrdiff_t at, std::ptrdiff_t stride, std::size_t done, std::size_t count) {
    if (stride == 0) {
      LaneSum sum;
      sum.add(from + done, count);
      to[at] += sum.total();
    } else {
      for (std::size_t i = 0; i < count; ++i) to[at + std::ptrdiff_t(i) * stride] += double(from[done + i]);
    }
  });
}

// An operand, chunk by chunk. What is uniform fills the buffer once.
template <class T>
class Chunks {
 public:
  static constexpr std::size_t size = kChunkBytes / sizeof(T);

  explicit Chunks(const Operand& operand) : operand_(operand) {
    if (uniform(operand)) elements_of(operand, 0, size, buffer_);
  }
  // n ≤ size.
  const T* at(std::size_t begin, std::size_t n) {
    return uniform(operand_) ? buffer_ : elements_of(operand_, begin, n, buffer_);
  }

 private:
  const Operand& operand_;
  alignas(64) T buffer_[size];
};

}  // namespace fusedstep::ISA
