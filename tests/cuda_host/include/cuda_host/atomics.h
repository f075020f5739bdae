// Atomic operations, with GCC's own: ThreadSanitizer knows these and their order.
#pragma once

#include <type_traits>

#include "cuda_host/threads.h"

inline constexpr int __NV_ATOMIC_RELAXED = __ATOMIC_RELAXED, __NV_ATOMIC_ACQUIRE = __ATOMIC_ACQUIRE,
                     __NV_ATOMIC_RELEASE = __ATOMIC_RELEASE, __NV_ATOMIC_ACQ_REL = __ATOMIC_ACQ_REL;
inline constexpr int __NV_THREAD_SCOPE_BLOCK = 2, __NV_THREAD_SCOPE_DEVICE = 3;

template <class T>
T __nv_atomic_load_n(const T* address, int order, int = 0) {
  cuda_host::pause();
  return order == __NV_ATOMIC_ACQUIRE ? __atomic_load_n(address, __ATOMIC_ACQUIRE)
                                      : __atomic_load_n(address, __ATOMIC_RELAXED);
}
template <class T>
void __nv_atomic_store_n(T* address, T value, int order, int = 0) {
  if (order == __NV_ATOMIC_RELEASE)
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
  else
    __atomic_store_n(address, value, __ATOMIC_RELAXED);
}
template <class T>
T __nv_atomic_fetch_add(T* address, T value, int order, int = 0) {
  switch (order) {
    case __NV_ATOMIC_ACQUIRE:
      return __atomic_fetch_add(address, value, __ATOMIC_ACQUIRE);
    case __NV_ATOMIC_RELEASE:
      return __atomic_fetch_add(address, value, __ATOMIC_RELEASE);
    case __NV_ATOMIC_ACQ_REL:
      return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
    default:
      return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  }
}

// The legacy ones order nothing, but for the one that follows a __threadfence().
namespace cuda_host {

bool take_fence();

template <class T, class F>
T update_atomically(T* address, F next) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  auto* const bits = reinterpret_cast<Bits*>(address);
  const bool fenced = take_fence();
  Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
  for (;;) {
    const T value = next(__builtin_bit_cast(T, old));
    const Bits desired = __builtin_bit_cast(Bits, value);
    if (fenced ? __atomic_compare_exchange_n(bits, &old, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)
               : __atomic_compare_exchange_n(bits, &old, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return __builtin_bit_cast(T, old);
  }
}

}  // namespace cuda_host

template <class T>
T atomicAdd(T* address, T value) {
  return cuda_host::update_atomically(address, [=](T old) { return T(old + value); });
}
template <class T>
T atomicMin(T* address, T value) {
  return cuda_host::update_atomically(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicMax(T* address, T value) {
  return cuda_host::update_atomically(address, [=](T old) { return value > old ? value : old; });
}
template <class T>
T atomicExch(T* address, T value) {
  return cuda_host::update_atomically(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  return cuda_host::update_atomically(address, [=](T old) { return old == expected ? value : old; });
}
