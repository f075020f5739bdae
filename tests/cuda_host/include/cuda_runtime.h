// A stand-in for CUDA's header of this name: the sources of csrc/cuda, compiled by a C++ compiler against it, run on
// the host, a fiber for each CUDA thread. It holds what those sources use and no more.
//
// Blocks are executed thread by thread, in an order that the caller chooses; threads change places where CUDA lets them
// wait. A barrier that not all threads of a block reach, a mask with threads that are not there, or threads that wait
// for ever become a std::runtime_error out of the launch. Shared memory begins as NaNs. Under AddressSanitizer every
// array has its bounds; under ThreadSanitizer each CUDA thread is a thread, and only barriers, __syncwarp and atomics
// with an order synchronise (shuffles do not, as on the device).
//
// Threads of different blocks talk through the __nv_atomic functions, which say their order; a loop that waits for
// another thread reads with __nv_atomic_load_n, where other threads get their turn. A volatile read is not enough here.
//
// Needs GCC 12 or newer and x86-64 (fiber.cpp switches stacks in its assembly).
#pragma once

#if !defined(__x86_64__) || !defined(__GNUC__)
#error "the stand-in for CUDA's runtime needs GCC or Clang and x86-64"
#endif

#include "cuda_host/atomics.h"
#include "cuda_host/launch.h"
#include "cuda_host/threads.h"
#include "cuda_host/vectors.h"
