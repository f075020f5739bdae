// Whole sweeps in one kernel, for few rows: each block keeps its slice of W_hh in shared memory for all steps, and the
// grid meets at one barrier a step, two where the cell has a second product. The launch is cooperative, so that all
// blocks are resident.
//
// A block owns some hidden units. Forward it keeps their rows of W_hh, G for each; a step stages h, multiplies, and
// ends in the cell's mathematics, whose h the other blocks read past the barrier. Backward it keeps their columns, and
// a step begins with the product of the gate gradients of the step after. Diamos et al., "Persistent RNNs: stashing
// recurrent weights on-chip", ICML 2016.
//
// The products' sums are those of product.cuh; backward each gate's H terms are such a sum, and the gates' sums are
// added in order. So the bits depend neither on the number of blocks, nor on the device, nor on the other rows of the
// batch.
#pragma once

#include <cuda_runtime.h>

#include "cuda/block.cuh"
#include "cuda/product.cuh"
#include "cuda/recurrence.cuh"

namespace fusedstep::ISA {

struct PersistentCall {
  Recurrence sweeps[2];
  unsigned units, rows;  // hidden units of a block, rows of the batch at a time
  unsigned* arrived;     // kArrivals zeros for each sweep
};

// What a block has for all steps.
template <class Cell>
struct Slice {
  using U = Unit<Cell>;
  using T = typename U::T;
  using V = typename U::V;
  static constexpr unsigned G = U::G, state_gates = U::state_gates;

  const Recurrence& r;
  const unsigned rows, first, units;  // of a chunk; hidden units first … first+units-1
  const unsigned unit, row;           // this thread's, of the units and of a chunk
  unsigned* const arrived;
  unsigned meetings = 0;
  T *weights, *vectors, *sums;  // (G, units, H); a chunk's, up to (rows, state gates, H); (G, units, rows)
  V bias[U::A], peephole[Cell::peepholes + 1];

  __device__ Slice(const PersistentCall& call, bool backward)
      : r(call.sweeps[blockIdx.y]),
        rows(call.rows),
        first(blockIdx.x * call.units),
        units(at_most(call.units, unsigned(r.H) - first)),
        unit(threadIdx.x % call.units),
        row(threadIdx.x / call.units),
        arrived(call.arrived + blockIdx.y * kArrivals),
        weights(dynamic_memory<T>()),
        vectors(weights + std::size_t(G) * call.units * r.H),
        sums(vectors + std::size_t(rows) * (backward ? state_gates : 1) * r.H) {
    if (unit >= units) return;
    const U own(r, 0, first + unit);
    own.biases(bias);
    own.peepholes(peephole);
  }

  __device__ void meet() { grid_barrier(arrived, ++meetings); }
  // f(first row, rows) for the chunks of the batch.
  template <class F>
  __device__ void each_chunk(F f) {
    for (unsigned row0 = 0; row0 < r.B; row0 += rows) f(row0, at_most(rows, unsigned(r.B) - row0));
  }
  __device__ bool mine(unsigned row0) const { return unit < units && row < rows && row0 + row < r.B; }
  __device__ U own(unsigned row0) const { return U(r, row0 + row, first + unit); }

  // sums = `count` gates of the weights, from `gate` on, times n vectors, which lie in global memory one after the
  // other and were written by all blocks: (n, H), or (n, count, H) where each gate sees its own.
  __device__ void multiply_with(const T* from, std::size_t n, unsigned gate, unsigned count, bool each_its_own) {
    const unsigned groups = each_its_own ? count : 1;
    copy_fresh(from, n * groups * r.H, vectors, threadIdx.x, kThreads);
    __syncthreads();
    multiply(Product<T>{weights + std::size_t(gate) * units * r.H, vectors, sums, groups, count / groups * units,
                        unsigned(n), unsigned(r.H), rows});
    __syncthreads();
  }
  __device__ T sum_of(int gate) const { return sums[(unsigned(gate) * units + unit) * rows + row]; }
};

template <class Cell>
__global__ void __launch_bounds__(kThreads, 1) sweep_kernel(const PersistentCall __grid_constant__ call) {
  using U = Unit<Cell>;
  using T = typename U::T;
  using V = typename U::V;
  Slice<Cell> slice(call, false);
  const Recurrence& r = slice.r;
  const std::size_t H = r.H;
#pragma unroll 1
  for (unsigned row = threadIdx.x / kWarp; row < U::G * slice.units; row += kThreads / kWarp) {
    const std::size_t gate = row / slice.units, unit = slice.first + row % slice.units;
    for (unsigned k = threadIdx.x % kWarp; k < H; k += kWarp)
      slice.weights[row * H + k] = as<T>(r.weight_hh)[(gate * H + unit) * H + k];
  }

  // The input's products are read one chunk ahead, before the barrier.
  T x[U::G] = {};
  const auto read = [&](std::size_t step, unsigned row0) {
    if (step >= r.S || !slice.mine(row0)) return;
    const U own = slice.own(row0);
    if (step < own.length) own.load_input(step, x);
  };
  read(0, 0);
  for (std::size_t step = 0; step < r.S; ++step) {
    const auto finish = [&](const U& own, V* a, V* s) {
      own.forward(step, a, s, slice.peephole);
      own.record(step, a, s);
    };
    slice.each_chunk([&](unsigned row0, unsigned n) {
      slice.multiply_with(as<T>((r.mask ? r.masked : r.h)[step & 1]) + row0 * H, n, 0, U::state_gates, false);
      if (slice.mine(row0)) {
        const U own = slice.own(row0);
        V a[U::A], s[U::S];
        own.state(step, s);
        if (step >= own.length) {
          own.carry(step, s);
        } else {
          unroll<U::A>([&](auto i) { a[i] = slice.bias[i]; });
          own.add_input(x, a);
          own.template add_products<typename Cell::StateGates>([&](int i) { return slice.sum_of(i); }, a);
          if constexpr (U::has_late)
            own.reset_stage(step, a, s);
          else
            finish(own, a, s);
        }
      }
      const bool more = row0 + n < r.B;
      read(more ? step : step + 1, more ? row0 + n : 0);
    });
    slice.meet();
    if constexpr (U::has_late) {
      slice.each_chunk([&](unsigned row0, unsigned n) {
        slice.multiply_with(as<T>(r.reset_h) + row0 * H, n, Cell::LateGates::first, 1, false);
        if (!slice.mine(row0)) return;
        const U own = slice.own(row0);
        if (step >= own.length) return;
        V a[U::A], s[U::S];
        T gates[U::G];
        own.state(step, s);
        own.load_input(step, gates);
        unroll<U::A>([&](auto i) { a[i] = slice.bias[i]; });
        own.add_input(gates, a);
        unroll<U::state_gates>([&](auto i) { a[i] = V(gates[i]); });  // as reset_stage left them
        own.template add_products<typename Cell::LateGates>([&](int) { return slice.sum_of(0); }, a);
        finish(own, a, s);
      });
      slice.meet();
    }
  }
}

template <class Cell>
__global__ void __launch_bounds__(kThreads, 1) sweep_back_kernel(const PersistentCall __grid_constant__ call) {
  using U = Unit<Cell>;
  using T = typename U::T;
  Slice<Cell> slice(call, true);
  const Recurrence& r = slice.r;
  const std::size_t H = r.H;
  if (slice.unit < slice.units && slice.row < kThreads / call.units)  // consecutive threads read consecutive units
    for (unsigned row = slice.row; row < U::G * H; row += kThreads / call.units) {
      const unsigned gate = row / unsigned(H), k = row % unsigned(H);
      slice.weights[(gate * slice.units + slice.unit) * H + k] = as<T>(r.weight_hh)[row * H + slice.first + slice.unit];
    }

  // What passes W_hh of a step's gate gradients, for this thread's unit.
  const auto through = [&](std::size_t step, unsigned row0, unsigned n) {
    const std::size_t slot = Place<T>(r, 0, 0).slot(step), ld = U::state_gates * H;
    const T* const from = r.dstate ? as<T>(r.dstate) + slot * r.B * ld : at<T>(r.dinput, slot, 0);
    slice.multiply_with(from + row0 * ld, n, 0, U::state_gates, true);
    T sum = 0;
    if (slice.mine(row0)) {
      sum = slice.sum_of(0);
      unroll<U::state_gates - 1>([&](auto i) { sum += slice.sum_of(i + 1); });
    }
    return sum;
  };
  // Operands are read one chunk ahead, before the barrier.
  typename U::Read from;
  const auto read = [&](std::size_t step, unsigned row0) {
    if (!slice.mine(row0)) return;
    const U own = slice.own(row0);
    if (step < own.length) from = own.read(step);
  };
  if (r.S > 0) read(r.S - 1, 0);
  for (std::size_t step = r.S + 1; step-- > 0;) {  // the step after the one whose gradients it computes; last the end
    slice.each_chunk([&](unsigned row0, unsigned n) {
      const T passed = step < r.S ? through(step, row0, n) : T(0);
      if (slice.mine(row0)) {
        const U own = slice.own(row0);
        if (step == 0)
          own.finish(passed);
        else if (step - 1 < own.length)
          own.backward(step - 1, from, own.carried(step - 1, passed), slice.peephole);
      }
      const bool more = row0 + n < r.B;
      if (step > (more ? 0 : 1)) read(step - (more ? 1 : 2), more ? row0 + n : 0);
    });
    if (step == 0) break;
    slice.meet();
    if constexpr (U::has_late) {
      slice.each_chunk([&](unsigned row0, unsigned n) {
        const T* const dlate = as<T>(r.dlate) + (Place<T>(r, 0, 0).slot(step - 1) * r.B + row0) * H;
        slice.multiply_with(dlate, n, Cell::LateGates::first, 1, false);
        if (!slice.mine(row0)) return;
        const U own = slice.own(row0);
        if (step - 1 < own.length) own.reset_backward(step - 1, slice.sum_of(0));
      });
      slice.meet();
    }
  }
}

}  // namespace fusedstep::ISA
