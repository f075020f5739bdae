// The kernels of one recurrent step whose products are done: a thread for each hidden unit of a row, forward and
// backward. A warp takes 32 consecutive units, so that every access is to one line.
//
// Traffic of a forward step of an LSTM, in values a unit and row: 4 + 4 of the products and 2 of the state in; 2, and
// with a tape 5, and y, out.
#pragma once

#include <cuda_runtime.h>

#include "cuda/recurrence.cuh"

namespace fusedstep::ISA {

inline constexpr unsigned kUnits = 32, kRows = 8;  // of a block: x over units, y over rows
// Blocks of a multiprocessor: 64 registers a thread, of double 80.
template <class T>
inline constexpr unsigned kResident = sizeof(T) == 4 ? 4 : 3;

// f(Place), a Unit or what it is made of, for each unit of each row.
template <class Place, class F>
__device__ void each_unit(const Recurrence& r, F f) {
  const std::size_t unit = std::size_t(blockIdx.x) * kUnits + threadIdx.x;
  if (unit >= r.H) return;
  for (std::size_t row = std::size_t(blockIdx.y) * kRows + threadIdx.y; row < r.B;
       row += std::size_t(gridDim.y) * kRows)
    f(Place(r, row, unit));
}

template <class T>
__global__ void __launch_bounds__(kUnits* kRows, kResident<T>) begin_kernel(const Recurrence __grid_constant__ r) {
  each_unit<Place<T>>(r, [](const Place<T>& own) { own.begin(); });
}

// Gate i of a product (B, gates·H).
template <class Cell>
__device__ auto product_of(const Unit<Cell>& own, const void* product, int gates) {
  using T = typename Cell::Scalar;
  const T* const from = as<T>(product) + own.row * std::size_t(gates) * own.r.H + own.unit;
  return [from, H = own.r.H](int i) { return from[std::size_t(i) * H]; };
}

template <class Cell>
__global__ void __launch_bounds__(kUnits* kRows, kResident<typename Cell::Scalar>)
    reset_kernel(const Recurrence __grid_constant__ r, const std::size_t step) {
  each_unit<Unit<Cell>>(r, [&](const Unit<Cell>& own) {
    using U = Unit<Cell>;
    if (step >= own.length) return;
    typename U::V a[U::A], s[U::S];
    typename U::T x[U::G];
    own.load_input(step, x);
    own.state(step, s);
    own.biases(a);
    own.add_input(x, a);
    own.template add_products<typename Cell::StateGates>(product_of(own, r.hidden, U::state_gates), a);
    own.reset_stage(step, a, s);
  });
}

template <class Cell>
__global__ void __launch_bounds__(kUnits* kRows, kResident<typename Cell::Scalar>)
    forward_kernel(const Recurrence __grid_constant__ r, const std::size_t step) {
  each_unit<Unit<Cell>>(r, [&](const Unit<Cell>& own) {
    using U = Unit<Cell>;
    typename U::V a[U::A], s[U::S], w[Cell::peepholes + 1];
    own.state(step, s);
    if (step >= own.length) return own.carry(step, s);
    typename U::T x[U::G];
    own.load_input(step, x);
    own.biases(a);
    own.add_input(x, a);
    own.peepholes(w);
    if constexpr (U::has_late) {
      unroll<U::state_gates>([&](auto i) { a[i] = typename U::V(x[i]); });  // as reset_kernel left them
      own.template add_products<typename Cell::LateGates>(product_of(own, r.late, 1), a);
    } else {
      own.template add_products<typename Cell::StateGates>(product_of(own, r.hidden, U::state_gates), a);
    }
    own.forward(step, a, s, w);
    own.record(step, a, s);
  });
}

template <class Cell>
__global__ void __launch_bounds__(kUnits* kRows, kResident<typename Cell::Scalar>)
    backward_kernel(const Recurrence __grid_constant__ r, const std::size_t step) {
  each_unit<Unit<Cell>>(r, [&](const Unit<Cell>& own) {
    using U = Unit<Cell>;
    if (step >= own.length) return;
    typename U::V w[Cell::peepholes + 1];
    own.peepholes(w);
    const bool later = step + 1 < own.length;
    own.backward(step, own.read(step), own.carried(step, later ? as<typename U::T>(r.through)[own.own()] : 0), w);
  });
}

template <class Cell>
__global__ void __launch_bounds__(kUnits* kRows, kResident<typename Cell::Scalar>)
    reset_backward_kernel(const Recurrence __grid_constant__ r, const std::size_t step) {
  each_unit<Unit<Cell>>(r, [&](const Unit<Cell>& own) {
    if (step < own.length) own.reset_backward(step, as<typename Cell::Scalar>(r.dreset_h)[own.own()]);
  });
}

template <class T>
__global__ void __launch_bounds__(kUnits* kRows, kResident<T>) finish_kernel(const Recurrence __grid_constant__ r) {
  each_unit<Place<T>>(r, [&](const Place<T>& own) { own.finish(as<T>(r.through)[own.own()]); });
}

}  // namespace fusedstep::ISA
