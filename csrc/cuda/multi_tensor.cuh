// The update of many tensors by one rule, a kernel for each rule, format, and with or without a master copy. A block
// has a chunk of one tensor; where the tensor's arrays agree modulo 16 bytes, all but its first and last few elements
// go by 128-bit accesses.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/table.h"
#include "cuda/device.h"
#include "cuda/formats.cuh"
#include "cuda/lane.cuh"
#include "cuda/tensors.cuh"
#include "optim/prepare.h"

namespace fusedstep::ISA {

inline constexpr int kChunk = 4096;  // elements: 16 a thread
inline constexpr int kUpdateThreads = 256;
// Blocks that a multiprocessor holds at least, of its 64 Ki registers: 64 a thread for f32; 128 for f64, whose ÷ and √
// are calls, and for the half formats, of which a thread has eight elements in hand. Even two blocks have 32 KiB of
// loads in flight, as much as hides the memory's latency.
template <Format format>
inline constexpr int kUpdateBlocks = format == Format::f32 ? 4 : 2;

template <template <class> class Rule, Format format, bool has_master>
struct Update {
  using S = typename Formatted<format>::Storage;
  using T = typename Formatted<format>::Scalar;
  static constexpr int states = Rule<T>::states;
  static constexpr int pointers = 2 + states + has_master;
  static constexpr int width = kAccessBytes / sizeof(S);  // elements of a thread's turn
  using Table = TensorTable<pointers>;

  static void arrays(const DeviceTensor& tensor, void** to) {
    *to++ = tensor.p;
    *to++ = tensor.g;
    for (int i = 0; i < states; ++i) *to++ = tensor.state[i];
    if (has_master) *to = tensor.master;
  }

  // A chunk's arrays.
  S *p, *g;
  T* state[states];
  T* master;

  __device__ Update(void* const* arrays, std::size_t begin)
      : p(static_cast<S*>(arrays[0]) + begin), g(static_cast<S*>(arrays[1]) + begin), master(nullptr) {
    for (int i = 0; i < states; ++i) state[i] = static_cast<T*>(arrays[2 + i]) + begin;
    if constexpr (has_master) master = static_cast<T*>(arrays[2 + states]) + begin;
  }

  // Elements before p's first multiple of 16 bytes.
  __device__ static int head(void* const* arrays) {
    return int(-reinterpret_cast<std::uintptr_t>(arrays[0]) % kAccessBytes / sizeof(S));
  }
  // Whether element `at` of each array is at such a multiple.
  __device__ bool aligned(int at) const {
    auto addresses = reinterpret_cast<std::uintptr_t>(p + at) | reinterpret_cast<std::uintptr_t>(g + at);
    for (int i = 0; i < states; ++i) addresses |= reinterpret_cast<std::uintptr_t>(state[i] + at);
    if constexpr (has_master) addresses |= reinterpret_cast<std::uintptr_t>(master + at);
    return addresses % kAccessBytes == 0;
  }

  // n elements from `at` on.
  template <int n>
  __device__ void apply(const Rule<T>& rule, T scale, bool zero, int at) const {
    using V = Lane<T>;
    Pack<n, S> params, grads;
    Pack<n, T> values, own[states];
    grads.load(g + at);
    if constexpr (has_master) {
      values.load(master + at);
    } else {
      params.load(p + at);
      for (int k = 0; k < n; ++k) values.of[k] = widened(params.of[k]);
    }
    for (int i = 0; i < states; ++i) own[i].load(state[i] + at);
    for (int k = 0; k < n; ++k) {
      V value = values.of[k], s[states];
      for (int i = 0; i < states; ++i) s[i] = own[i].of[k];
      update(rule, value, V(widened(grads.of[k])) * V(scale), s, std::make_index_sequence<std::size_t(states)>{});
      for (int i = 0; i < states; ++i) own[i].of[k] = s[i].raw;
      values.of[k] = value.raw;
      round_to(params.of[k], value.raw);
      round_to(grads.of[k], T(0));
    }
    params.store(p + at);
    if constexpr (has_master) values.store(master + at);
    for (int i = 0; i < states; ++i) own[i].store(state[i] + at);
    if (zero) grads.store(g + at);
  }

 private:
  template <std::size_t... i>
  __device__ static void update(const Rule<T>& rule, Lane<T>& value, Lane<T> grad, Lane<T>* s,
                                std::index_sequence<i...>) {
    rule(value, grad, s[i]...);
  }
};

template <template <class> class Rule, Format format, bool has_master>
__global__ void __launch_bounds__(kUpdateThreads, kUpdateBlocks<format>)
    update_kernel(const typename Update<Rule, format, has_master>::Table __grid_constant__ table, const void* rules,
                  double sign, double multiplier, const Report* report, bool zero) {
  using Chunk = Update<Rule, format, has_master>;
  using T = typename Chunk::T;
  if (report && !report->applied) return;
  const T scale = T(sign * (report ? report->multiplier : multiplier));

  unsigned part = blockIdx.x;
  const auto& tensor = table.find(part);
  const auto rule = *reinterpret_cast<const Rule<T>*>(static_cast<const char*>(rules) + tensor.number * kRuleBytes);

  // Chunks but the first begin after as many elements as the head has, so that they need no head of their own.
  int head = Chunk::head(tensor.arrays);
  const bool aligned = Chunk(tensor.arrays, 0).aligned(head);
  if (!aligned) head = 0;
  const std::size_t begin = part ? std::size_t(part) * kChunk + head : 0;
  const std::size_t end = std::size_t(part + 1) * kChunk + head;
  const int size = begin < tensor.n ? int((end < tensor.n ? end : tensor.n) - begin) : 0;
  const Chunk chunk(tensor.arrays, begin);

  // [wide, rest) goes by 128-bit accesses.
  const int wide = !aligned ? size : part ? 0 : head < size ? head : size;
  const int turns = (size - wide) / Chunk::width, rest = wide + turns * Chunk::width;
  for (int i = threadIdx.x; i < turns; i += kUpdateThreads)
    chunk.template apply<Chunk::width>(rule, scale, zero, wide + i * Chunk::width);
  for (int i = threadIdx.x; i < size - turns * Chunk::width; i += kUpdateThreads)
    chunk.template apply<1>(rule, scale, zero, i < wide ? i : i - wide + rest);
}

// Counts a step of each of these parameters and writes their rules.
inline constexpr int kPrepareThreads = 128;
struct Numbers {
  unsigned count, of[1023];  // 4 KiB
};

template <template <class> class Rule, class T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(const Numbers __grid_constant__ numbers, const double* hyper, double* steps, void* rules,
                   const Report* report) {
  const unsigned i = blockIdx.x * kPrepareThreads + threadIdx.x;
  if (i >= numbers.count || (report && !report->applied)) return;
  const unsigned number = numbers.of[i];
  const double t = steps[number] + 1;
  steps[number] = t;
  prepare<Rule, T>(hyper, t, static_cast<char*>(rules) + number * kRuleBytes);
}

}  // namespace fusedstep::ISA
