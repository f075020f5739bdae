// The element types, each with kernel tables of its own. A new storage type is a name here and a load/store
// conversion in simd.h.
#pragma once

#include <cstddef>

namespace fusedstep {

enum class Dtype : int { f32, f64 };
inline constexpr int kDtypes = 2;

// How packed weights are kept: in the arithmetic's type, or float32 ones rounded to bfloat16, a float's upper half, or
// as int8 codes, whose rows have a scale each.
enum class Storage : int { same, bfloat16, int8 };

// The most columns of a matrix of int8 codes: a product's sum, and 128 times the sum of a row's codes, fit in 32 bits.
inline constexpr std::size_t kInt8Width = std::size_t(1) << 17;

constexpr std::size_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 8; }
constexpr const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "float32" : "float64"; }

}  // namespace fusedstep
