// The losses of rows of classes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/loss.h"
#include "cpu/long_rows.h"
#include "cpu/row_block.h"
#include "cpu/short_rows.h"
#include "cpu/stream.h"
#include "cpu/threads.h"
#include "loss/nll.h"

namespace fusedstep::ISA {

template <class T, bool dense, bool probabilities, bool weighted>
void softmax_rows(const RowsCall& call, std::size_t begin, std::size_t end) {
  if (call.C <= kShortRow)
    short_rows<T, dense, probabilities, weighted>(call, begin, end);
  else
    long_rows<T, dense, probabilities, weighted>(call, begin, end);
}

template <class T>
void cross_entropy(const RowsCall& call, std::size_t begin, std::size_t end) {
  const auto run = call.probabilities
                       ? (call.weight ? softmax_rows<T, true, true, true> : softmax_rows<T, true, true, false>)
                   : call.smoothing == 0 ? softmax_rows<T, false, false, false>
                   : call.weight         ? softmax_rows<T, true, false, true>
                                         : softmax_rows<T, true, false, false>;
  run(call, begin, end);
}

template <class T>
void nll(const RowsCall& call, std::size_t begin, std::size_t end) {
  const std::size_t C = call.C, rows = rows_per_sum(C), last = std::min(call.N, end * rows);
  const std::size_t rows_of_room = call.inner != 1 ? RowTile<T>::kTile : call.stream;
  T* const room = static_cast<T*>(scratch(std::max<std::size_t>(rows_of_room * C, 1) * sizeof(T)));
  RowTile<T> logits(nullptr, call.grad, call, last, room);
  const T* const x = static_cast<const T*>(call.input);
  const T* const weight = static_cast<const T*>(call.weight);
  const T* const sample_weight = static_cast<const T*>(call.sample_weight);
  for (std::size_t block = begin; block < end; ++block) {
    double total = 0;
    for (std::size_t r = block * rows; r < std::min(call.N, (block + 1) * rows); ++r) {
      const double u = sample_weight ? double(sample_weight[r]) : 1;
      const bool left_out = u == 0 || call.index[r] == call.ignore_index;
      double loss = 0, slope = 0;
      const std::size_t y = left_out ? 0 : std::size_t(call.index[r]);
      if (!left_out) {
        const double w = weight ? double(weight[y]) : 1;
        loss = u * NLL::loss(double(x[(r / call.inner * C + y) * call.inner + r % call.inner]), w);
        slope = u * call.scale * NLL::slope(w);
      }
      logits.seek(r);
      if (T* const grad = logits.out(); grad && call.stream) {
        if (r == begin * rows) std::memset(room, 0, C * sizeof(T));
        room[y] = T(slope);
        stream_copy(grad, room, C);
        room[y] = 0;
      } else if (grad) {
        std::memset(grad, 0, C * sizeof(T));
        grad[y] = T(slope);
      }
      if (call.values) static_cast<T*>(call.values)[r] = T(loss);
      total += loss;
    }
    if (call.sums) call.sums[block] = total;
  }
  if (call.stream) end_of_stream();
}

}  // namespace fusedstep::ISA
