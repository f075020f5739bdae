#include "python/weights.h"

#include <algorithm>

namespace fusedstep::python {
namespace {

const CellEntry& find_cell(const std::string& kind, Dtype dtype) {
  const Table& of = table(dtype);
  for (int i = 0; i < of.n_cells; ++i)
    if (of.cells[i].name == kind) return of.cells[i];
  throw py::key_error("no cell is called " + kind);
}

}  // namespace

Weights::Weights(const std::string& kind, const py::dict& weights) {
  for (const auto& item : weights)
    if (std::none_of(kWeightNames, kWeightNames + kWeights,
                     [&](const char* name) { return py::str(item.first).equal(py::str(name)); }))
      throw py::value_error("weights: no weight is called " + py::repr(item.first).cast<std::string>());
  for (int i = 0; i < kWeights; ++i) {
    objects[i] = weights.attr("get")(kWeightNames[i], py::none());
    if (!objects[i].is_none()) arrays[i] = array(objects[i].ptr(), {kWeightNames[i]}, keep);
  }
  for (int i = 0; i < 2; ++i)
    if (!arrays[i]) throw py::type_error(std::string(kWeightNames[i]) + ": expected an array, got None");
  dtype = arrays[0]->dtype;
  cell = &find_cell(kind, dtype);
  if (bool(arrays[4]) != (cell->peepholes > 0))
    value_error({"weight_ch"}, arrays[4] ? kind + " has no peepholes" : "expected an array, got None");
  const bool norms = cell->norms > 0, output = norms && cell->states > 1;
  for (int i = 6; i < kWeights; ++i) {
    const bool known = i < 8 ? norms : output, needed = known && i < 9;
    if (arrays[i] ? !known : needed)
      value_error({kWeightNames[i]}, arrays[i] ? kind + " has none" : "expected an array, got None");
  }

  const Array& ih = *arrays[0];
  const Array& hh = *arrays[1];
  if (arrays[5]) {
    const Array& hr = *arrays[5];
    if (!cell->can_project) value_error({"weight_hr"}, kind + " has no projection");
    if (hr.nd != 2 || hr.shape[0] < 1 || hr.shape[0] >= hr.shape[1])
      value_error({"weight_hr"},
                  "expected shape (proj_size, hidden_size), the first smaller, got " + shape_text(hr.nd, hr.shape));
    check_shape(hh, {"weight_hh"}, {cell->gates * hr.shape[1], hr.shape[0]});
  } else if (hh.nd != 2 || hh.shape[1] < 1 || hh.shape[0] != cell->gates * hh.shape[1]) {
    value_error({"weight_hh"}, "expected shape (" + std::to_string(cell->gates) + "*hidden_size, hidden_size), got " +
                                   shape_text(hh.nd, hh.shape));
  }
  const Py_ssize_t rows = hh.shape[0], hidden = rows / cell->gates;
  if (ih.nd != 2)
    value_error({"weight_ih"},
                "expected shape (" + std::to_string(rows) + ", input_size), got " + shape_text(ih.nd, ih.shape));
  I = std::size_t(ih.shape[1]);
  H = std::size_t(hidden);
  P = std::size_t(hh.shape[1]);
  check_shape(ih, {"weight_ih"}, {rows, ih.shape[1]});
  for (const int i : {2, 3, 6, 7})
    if (arrays[i]) check_shape(*arrays[i], {kWeightNames[i]}, {rows});
  if (arrays[4]) check_shape(*arrays[4], {"weight_ch"}, {cell->peepholes, hidden});
  for (const int i : {8, 9})
    if (arrays[i]) check_shape(*arrays[i], {kWeightNames[i]}, {hidden});
  for (int i = 0; i < kWeights; ++i) {
    if (!arrays[i]) continue;
    check_dtype(*arrays[i], {kWeightNames[i]}, dtype);
    check_contiguous(*arrays[i], {kWeightNames[i]});
    extents[std::size_t(i)] = extent(*arrays[i]);
  }
}

Storage Weights::storage_of(const std::string& name) const {
  if (name == name_of(dtype)) return Storage::same;
  if (name == "bfloat16" && dtype == Dtype::f32) return Storage::bfloat16;
  if (name != "int8" || dtype != Dtype::f32)
    throw py::value_error(std::string("weights: expected '") + name_of(dtype) +
                          (dtype == Dtype::f32 ? "', 'bfloat16' or 'int8', got '" : "', got '") + name + "'");
  if (const std::size_t width = std::max(I, H); width > kInt8Width)
    throw py::value_error("weights: expected at most " + std::to_string(kInt8Width) + " inputs for 'int8', got " +
                          std::to_string(width));
  return Storage::int8;
}

py::array Weights::packed(Storage storage) const {
  py::array to = zeros({Py_ssize_t(packed_bytes(storage) / size_of(dtype))}, dtype);
  pack(to.mutable_data(), storage);
  return to;
}

void Weights::set_writeable(bool writeable) const {
  constexpr int flag = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  for (const auto& array : arrays) {
    if (!array) continue;
    int& flags = py::detail::array_proxy(array->object)->flags;
    flags = writeable ? flags | flag : flags & ~flag;
  }
}

}  // namespace fusedstep::python
