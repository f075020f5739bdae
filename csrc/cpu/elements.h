// The loop of the elementwise losses: value, gradient and sum of one chunk at a time, which stays in L1.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/loss.h"
#include "cpu/operand.h"
#include "cpu/simd.h"
#include "cpu/stream.h"
#include "cpu/sums.h"

namespace fusedstep::ISA {

template <template <class> class Loss, class T>
void prepare_loss(const double* hyper, void* loss) {
  static_assert(sizeof(Loss<T>) <= kLossBytes);
  *static_cast<Loss<T>*>(loss) = Loss<T>::prepare(hyper);
}

template <template <class> class Loss, class T>
void elements(const void* prepared, const ElementsCall& call, std::size_t begin, std::size_t end) {
  using V = Vec<T>;
  const Loss<T> rule = *static_cast<const Loss<T>*>(prepared);
  const bool weighted = !uniform(call.weight) || call.weight.value != 1;
  const V scale = V(T(call.scale));
  const T* const x = static_cast<const T*>(call.input);
  T* const grad = static_cast<T*>(call.grad);
  T* const values = static_cast<T*>(call.values);
  Chunks<T> target(call.target), weight(call.weight), pos_weight(call.pos_weight);
  alignas(64) T room[Chunks<T>::size], slopes[Chunks<T>::size];

  for (std::size_t block = begin; block < end; ++block) {
    LaneSum sum;
    const std::size_t last = std::min(call.n, (block + 1) * kLossBlock);
    for (std::size_t first = block * kLossBlock, n; first < last; first += n) {
      n = std::min(Chunks<T>::size, last - first);
      const T* const t = target.at(first, n);
      const T* const w = weight.at(first, n);
      const T* const p = pos_weight.at(first, n);
      T* const l = values ? values + first : room;
      T* const g = call.stream ? slopes : grad ? grad + first : nullptr;
      const auto one = [&](std::size_t at, auto load, auto store) __attribute__((always_inline)) {
        V loss, slope, factor = scale;
        rule(load(x + first + at), load(t + at), load(p + at), loss, slope);
        if (weighted) {
          const V own = load(w + at);
          loss = loss * own;
          factor = own * scale;
        }
        store(l + at, loss);
        if (grad) store(g + at, slope * factor);
      };
      std::size_t at = 0;
      for (; at + V::size <= n; at += V::size)
        one(at, [](const T* from) __attribute__((always_inline)) { return load<T>(from); },
            [](T* to, V v) __attribute__((always_inline)) { store(to, v); });
      if (const int rest = int(n - at))
        one(at, [&](const T* from) __attribute__((always_inline)) { return load_n<T>(from, rest); },
            [&](T* to, V v) __attribute__((always_inline)) { store_n(to, v, rest); });
      if (call.stream) stream_copy(grad + first, g, n);
      if (call.sums) sum.add(l, n);
    }
    if (call.sums) call.sums[block] = sum.total();
  }
  if (call.stream) end_of_stream();
}

}  // namespace fusedstep::ISA
