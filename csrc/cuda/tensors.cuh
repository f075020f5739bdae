// A list of tensors as a kernel's parameter, by value: blocks or warps find their tensor and the part of it that is
// theirs, so that a thousand small tensors and a large one both keep the device busy.
#pragma once

#include <cstddef>
#include <span>

#include "core/fn.h"
#include "cuda/device.h"

namespace fusedstep::ISA {

// Of the 32,764 bytes that a kernel's parameters may have (CUDA 12.1, compute capability 7.0); the rest is for the
// others.
inline constexpr std::size_t kTableBytes = 32'764 - 60;

template <int pointers>
struct TensorTable {
  struct Tensor {
    void* arrays[pointers];
    std::size_t n;
    unsigned number;
    unsigned end;  // parts of this and all tensors before
  };
  static constexpr unsigned room = (kTableBytes - sizeof(std::size_t)) / sizeof(Tensor);

  Tensor tensors[room];
  unsigned count = 0;

  FN unsigned parts() const { return count ? tensors[count - 1].end : 0; }

  // The tensor whose is this part of all; `part` becomes its number within the tensor.
  FN const Tensor& find(unsigned& part) const {
    unsigned low = 0;
    for (unsigned high = count - 1; low < high;) {
      const unsigned middle = (low + high) / 2;
      if (part < tensors[middle].end)
        high = middle;
      else
        low = middle + 1;
    }
    if (low) part -= tensors[low - 1].end;
    return tensors[low];
  }
};

// Cuts a list of tensors into tables and launches a kernel for each. `arrays(tensor, pointers)` says which pointers go
// along; tensors have parts of `part` elements.
template <int pointers, class Arrays, class Launch>
void in_tables(std::span<const DeviceTensor> tensors, std::size_t part, Arrays arrays, Launch launch) {
  constexpr std::size_t kMostParts = 0x7FFFFFFF;  // blocks of a grid
  TensorTable<pointers> table;
  for (const DeviceTensor& tensor : tensors) {
    const std::size_t parts = (tensor.n + part - 1) / part;
    if (!parts) continue;
    if (table.count == table.room || table.parts() + parts > kMostParts) {
      launch(table);
      table.count = 0;
    }
    auto& entry = table.tensors[table.count];
    entry.n = tensor.n;
    entry.number = unsigned(tensor.number);
    entry.end = unsigned(table.parts() + parts);
    arrays(tensor, entry.arrays);
    ++table.count;
  }
  if (table.count) launch(table);
}

}  // namespace fusedstep::ISA
