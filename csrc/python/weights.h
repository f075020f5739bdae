// The weight arrays of a cell or of a layer's direction, checked once, and a packed snapshot of them.
#pragma once

#include <array>
#include <iterator>
#include <optional>
#include <string>

#include "core/table.h"
#include "python/arrays.h"

namespace fusedstep::python {

inline constexpr const char* kWeightNames[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch",
                                               "weight_hr", "gain_ih",   "gain_hh", "gain_c",  "bias_c"};
inline constexpr int kWeights = int(std::size(kWeightNames));
inline constexpr int kMaxCellStates = 2;         // h and c
inline constexpr double kLongProduct = 1 << 17;  // fused multiply-adds, about 5 µs: the GIL is released for more

// A cell's weight arrays, checked; absent ones are null.
struct Weights {
  const CellEntry* cell;
  std::array<py::object, kWeights> objects;
  Keep keep;
  std::array<std::optional<Array>, kWeights> arrays;
  std::array<Extent, kWeights> extents{};
  std::size_t I, H, P;  // P: of h, less than H where weight_hr projects it
  Dtype dtype;

  Weights(const std::string& kind, const py::dict& weights);

  // How they are to be packed: "float32", …; ValueError where they cannot be.
  Storage storage_of(const std::string& name) const;
  bool has_bias() const { return arrays[2].has_value(); }
  const void* data(int i) const { return arrays[i] ? arrays[i]->data : nullptr; }
  CellWeights pointers(const void* packed, Storage storage = Storage::same) const {
    return {data(0), data(1), data(2), data(3), data(4), data(5), data(6), data(7), data(8), data(9), packed, storage};
  }
  std::size_t packed_bytes(Storage storage = Storage::same) const { return cell->packed_bytes(I, H, P, storage); }
  void pack(void* to, Storage storage = Storage::same) const { cell->pack(pointers(nullptr, storage), I, H, P, to); }
  py::array packed(Storage storage = Storage::same) const;
  // Sets the flag itself: the arrays are the cell's own, and NumPy would refuse where they came out of a pickle.
  void set_writeable(bool writeable) const;
};

}  // namespace fusedstep::python
