// The steps and rows of a call over sequences: how they are ordered, and cut in chunks on the way back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/table.h"
#include "python/arrays.h"
#include "python/room.h"

namespace fusedstep::python {

// Rows of (T, B, …) in the order in which sweeps take them.
struct Shape {
  std::size_t T = 0, B = 0;
  std::vector<std::int64_t> order, lengths;
  std::vector<std::size_t> start;
  bool whole = true;  // every row has length T

  Shape(std::size_t steps, std::size_t rows, const py::object& given) : T(steps), B(rows), order(B), start(T + 1) {
    std::iota(order.begin(), order.end(), 0);
    lengths.assign(B, std::int64_t(T));
    if (!given.is_none()) {
      const auto array = py::cast<py::array_t<std::int64_t, py::array::c_style>>(given);
      if (array.ndim() != 1 || std::size_t(array.shape(0)) != B)
        throw py::value_error("lengths: expected one for each row");
      const std::int64_t* const of = array.data();
      for (std::size_t row = 0; row < B; ++row)
        if (of[row] < 0 || of[row] > std::int64_t(T)) throw py::value_error("lengths: out of range");
      whole = std::all_of(of, of + B, [&](std::int64_t n) { return n == std::int64_t(T); });
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return of[a] > of[b]; });
      for (std::size_t row = 0; row < B; ++row) lengths[row] = of[order[row]];
    }
    std::size_t active = B;
    for (std::size_t step = 0; step < T; ++step) {
      while (active > 0 && lengths[active - 1] <= std::int64_t(step)) --active;
      start[step + 1] = start[step] + active;
    }
  }
  std::size_t pairs() const { return start[T]; }
  std::size_t steps() const { return B ? std::size_t(lengths[0]) : 0; }
};

// f(step, last step, due, top): chunks of steps step … last-1, from the last one on, of about kChunkPairs each. Then
// the passes of pairs due … top-1 are complete, and their sums due.
template <class F>
void each_chunk(const Shape& shape, F f) {
  constexpr std::size_t kChunkPairs = 4 * kSumPass;
  std::size_t last = shape.steps(), top = shape.pairs();
  do {
    std::size_t step = last;
    while (step > 0 && shape.start[last] - shape.start[step] < kChunkPairs) --step;
    const std::size_t due = step ? std::min(top, (shape.start[step] + kSumPass - 1) / kSumPass * kSumPass) : 0;
    f(step, last, due, top);
    last = step;
    top = due;
  } while (last > 0);
}

// Arrays of a row for each pair, of which those of a window have memory: it begins at the last pair and moves down. An
// array's pointer is what it would be if pair 0 had memory too.
class Window {
 public:
  Window(std::size_t pairs, std::size_t rows) : base_(pairs), rows_(rows) {}
  void add(void*& at, std::size_t row_bytes) { arrays_.push_back({Room(rows_ * row_bytes), row_bytes, &at}); }
  // To pairs from `base` on; the rows up to `end` come along.
  void move(std::size_t base, std::size_t end) {
    for (const auto& [room, row_bytes, at] : arrays_) {
      if (end > base_) std::memmove(room.data() + (base_ - base) * row_bytes, room.data(), (end - base_) * row_bytes);
      *at = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(room.data()) - base * row_bytes);
    }
    base_ = base;
  }

 private:
  struct OfPairs {
    Room room;
    std::size_t row_bytes;
    void** at;
  };
  std::size_t base_;
  const std::size_t rows_;
  std::vector<OfPairs> arrays_;
};

}  // namespace fusedstep::python
