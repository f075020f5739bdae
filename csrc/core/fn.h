// FN marks a function that runs inside a kernel, on the host and on the device alike.
//
// The build defines one more name, ISA (portable, avx2, avx512, …): every kernel header puts what it declares in
// namespace fusedstep::ISA, so that an inline function compiled for AVX-512 can never be the copy that the linker keeps
// for the other instruction sets.
#pragma once

#ifdef __CUDACC__
#define FN __host__ __device__ inline
#else
#define FN inline __attribute__((always_inline))
#endif
