// The element types, numbered as the kernel tables index them. A new storage type is a name here and a load/store
// conversion in simd.h.
#pragma once

#include <cstddef>

namespace fusedstep {

enum class Dtype : int { f32, f64 };
inline constexpr int kDtypes = 2;

// How packed weights are kept: in the arithmetic's type, or float32 ones rounded to bfloat16, a float's upper half.
enum class Storage : int { same, bfloat16 };

constexpr std::size_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 8; }
constexpr const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "float32" : "float64"; }

}  // namespace fusedstep
