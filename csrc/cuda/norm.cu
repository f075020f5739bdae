// The norm of the gradients: its kernels for every format, and what launches them.
#include <cstddef>
#include <span>

#include "cuda/device.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace fusedstep::ISA {
namespace {

template <class S>
void launch_square_sums(std::span<const DeviceTensor> tensors, bool again, const Report* report, BlockSum* sums,
                        Stream stream) {
  const auto arrays = [&](const DeviceTensor& tensor, void** to) {
    to[0] = tensor.g;
    to[1] = sums + tensor.first_block;
  };
  in_tables<2>(tensors, kNormBlock, arrays, [&](const Gradients& table) {
    launch("square_sums", square_sums_kernel<S>,
           {.blocks = (table.parts() + kSumWarps - 1) / kSumWarps, .threads = kSumThreads, .stream = stream}, table,
           again, report);
  });
}

}  // namespace

void square_sums(Format format, std::span<const DeviceTensor> tensors, bool again, const Report* report, BlockSum* sums,
                 Stream stream) {
  constexpr decltype(&launch_square_sums<float>) launches[] = {launch_square_sums<float>, launch_square_sums<double>,
                                                               launch_square_sums<__half>,
                                                               launch_square_sums<__nv_bfloat16>};
  launches[int(format)](tensors, again, report, sums, stream);
}

void finish_norm(const BlockSum* sums, std::size_t blocks, double max_norm, double grad_scale, bool again,
                 Report* report, Stream stream) {
  launch("finish_norm", finish_kernel, {.blocks = 1, .threads = kFinishThreads, .stream = stream}, sums, blocks,
         max_norm, grad_scale, again, report);
}

}  // namespace fusedstep::ISA
