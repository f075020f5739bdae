#include "cpu/loss.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "cpu/caches.h"
#include "cpu/threads.h"

namespace fusedstep {
namespace {

constexpr std::size_t kPart = 1 << 17;  // elements of what is added to broadcast doubles: a part at a time, in L2
constexpr std::size_t kElementsPerRun = 1 << 16;  // some tens of microseconds: what threads may differ by at the end
constexpr std::size_t kElementsPerThread = 8192;  // some microseconds of work; less is not worth waking a thread

// f(begin, end) over runs of the blocks. A thread takes those of its own share, which are in its cache from the call
// before, then what is left of the others': on a shared machine one thread is often slower.
template <class F>
void for_blocks(std::size_t blocks, std::size_t elements, F f) {
  const auto wanted = std::clamp<std::size_t>(elements / kElementsPerThread, 1, std::size_t(num_threads()));
  const int threads = int(std::min(wanted, std::max<std::size_t>(blocks, 1)));
  if (blocks == 0) return;
  if (threads == 1) return parallel(1, [&](const Team&) { f(0, blocks); });
  const std::size_t run = std::max<std::size_t>(blocks * kElementsPerRun / elements, 1);
  struct alignas(64) Left {
    std::atomic<std::size_t> next;
    std::size_t end;
  };
  std::vector<Left> left(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    const Share share(blocks, 1, i, threads);
    left[std::size_t(i)].next = share.begin, left[std::size_t(i)].end = share.end;
  }
  parallel(threads, [&](const Team& team) {
    for (int i = 0; i < threads; ++i) {
      Left& own = left[std::size_t((team.thread + i) % threads)];
      for (std::size_t begin; (begin = own.next.fetch_add(run, std::memory_order_relaxed)) < own.end;)
        f(begin, std::min(own.end, begin + run));
    }
  });
}

constexpr std::size_t blocks_of(std::size_t n, std::size_t size) { return (n + size - 1) / size; }

// As within a block: lane j of 32 takes the terms j, j+32, …, and the lanes are folded in halves.
class Fold {
 public:
  void add(double x) { lanes_[at_++ % kLanes] += x; }
  double total() {
    for (std::size_t half = kLanes / 2; half; half /= 2)
      for (std::size_t j = 0; j < half; ++j) lanes_[j] += lanes_[j + half];
    return lanes_[0];
  }

 private:
  static constexpr std::size_t kLanes = 32;
  double lanes_[kLanes] = {};
  std::size_t at_ = 0;
};

double total_of(const double* sums, std::size_t n) {
  Fold fold;
  for (std::size_t i = 0; i < n; ++i) fold.add(sums[i]);
  return fold.total();
}

}  // namespace

double run_elements(const LossEntry& entry, const void* loss, std::size_t element, ElementsCall call, bool sum) {
  const std::size_t blocks = blocks_of(call.n, kLossBlock);
  std::vector<double> sums(sum ? blocks : 0);
  call.sums = sum ? sums.data() : nullptr;
  call.stream = call.grad && call.grad != call.input && past_caches(call.n * element);
  for_blocks(blocks, call.n, [&](std::size_t begin, std::size_t end) { entry.run(loss, call, begin, end); });
  return total_of(sums.data(), sums.size());
}

double run_rows(RowsLoss loss, std::size_t element, RowsCall call, bool sum) {
  const std::size_t blocks = blocks_of(call.N, rows_per_sum(call.C));
  std::vector<double> sums(sum ? blocks : 0);
  call.sums = sum ? sums.data() : nullptr;
  call.stream = call.grad && call.grad != call.input && call.inner == 1 && past_caches(call.N * call.C * element);
  for_blocks(blocks, call.N * call.C, [&](std::size_t begin, std::size_t end) { loss(call, begin, end); });
  return total_of(sums.data(), sums.size());
}

void run_expression(const LossTable& table, std::size_t element, ExpressionCall call) {
  const std::size_t block = expression_block(call.by_row, call.C, element), blocks = blocks_of(call.n, block);
  ExpressionOutput outputs[kMaxOutputs];
  std::vector<double> sums;
  std::size_t step = blocks;
  std::copy_n(call.outputs, call.n_outputs, outputs);
  sums.reserve(blocks * std::size_t(call.n_outputs));
  std::vector<std::unique_ptr<std::byte[]>> parts;
  for (int i = 0; i < call.n_outputs; ++i) {
    const void* const data = outputs[i].data;
    outputs[i].stream = data && !outputs[i].rows && past_caches(call.n * element) &&
                        std::none_of(call.inputs, call.inputs + call.n_inputs,
                                     [&](const Operand& input) { return input.data == data; });
    if (outputs[i].sums) {
      outputs[i].sums = sums.data() + sums.size();
      sums.resize(sums.size() + blocks);
    }
    if (outputs[i].to) {
      step = std::min(blocks, std::max<std::size_t>(kPart / block, 1));
      parts.push_back(std::make_unique_for_overwrite<std::byte[]>(step * block * element));
      outputs[i].data = parts.back().get();
    }
  }
  const ExpressionOutput* const wanted = call.outputs;
  call.outputs = outputs;
  for (std::size_t at = 0; at < blocks; at += step) {
    const std::size_t first = at * block, end = std::min(blocks, at + step), n = std::min(call.n, end * block) - first;
    for (int i = 0; i < call.n_outputs; ++i)
      if (outputs[i].to) outputs[i].first = first;
    for_blocks(end - at, n, [&](std::size_t b, std::size_t e) { table.expression(call, at + b, at + e); });
    for (int i = 0; i < call.n_outputs; ++i)
      if (outputs[i].to) table.add(outputs[i].data, first, n, *outputs[i].to);
  }
  for (int i = 0; i < call.n_outputs; ++i)
    if (wanted[i].sums) *wanted[i].sums = total_of(outputs[i].sums, blocks);
}

double sum_of(const LossTable& table, const Operand& operand, std::size_t n) {
  if (!operand.data) return operand.value * double(n);
  double sum = 0;
  const Instruction copy{Op::copy, false, {}, 1, {0, 0, 0}};
  const ExpressionOutput output{
      .rows = false, .data = nullptr, .sums = &sum, .first = 0, .to = nullptr, .stream = false};
  const std::size_t element = &table == &loss_table(Dtype::f32) ? 4 : 8;
  run_expression(table, element,
                 {.n = n,
                  .C = 1,
                  .by_row = false,
                  .code = &copy,
                  .inputs = &operand,
                  .uniforms = nullptr,
                  .outputs = &output,
                  .n_code = 1,
                  .n_inputs = 1,
                  .n_uniforms = 0,
                  .n_registers = 0,
                  .n_outputs = 1});
  return sum;
}

template <class T>
RowWeights weigh_rows(const RowsCall& call) {
  const T* const weight = static_cast<const T*>(call.weight);
  const T* const sample_weight = static_cast<const T*>(call.sample_weight);
  Fold fold;
  for (std::size_t r = 0; r < call.N; ++r) {
    double own = sample_weight ? double(sample_weight[r]) : 1;
    if (call.index) {
      const std::int64_t y = call.index[r];
      if (y == call.ignore_index) {
        own = 0;
      } else if (y < 0 || std::size_t(y) >= call.C) {
        return {0, std::ptrdiff_t(r)};
      } else if (weight && own != 0) {
        own *= double(weight[y]);
      }
    }
    fold.add(own);
  }
  return {fold.total(), -1};
}
template RowWeights weigh_rows<float>(const RowsCall&);
template RowWeights weigh_rows<double>(const RowsCall&);

}  // namespace fusedstep
