// The losses of csrc/loss over a Lane, the V of a CUDA thread, as C functions for ctypes: what a kernel would call.
#include "loss/losses.h"

#include <cstddef>
#include <cstdint>

#include "cuda/lane.cuh"
#include "loss/cross_entropy.h"
#include "loss/nll.h"

using namespace fusedstep::ISA;

namespace {

template <template <class> class Loss, class T>
void elements(const double* hyper, const void* const* arrays, void* const* results, std::size_t n) {
  const Loss<T> rule = Loss<T>::prepare(hyper);
  const T *x = static_cast<const T*>(arrays[0]), *t = static_cast<const T*>(arrays[1]),
          *w = static_cast<const T*>(arrays[2]);
  T *loss = static_cast<T*>(results[0]), *grad = static_cast<T*>(results[1]);
  for (std::size_t i = 0; i < n; ++i) {
    Lane<T> l, g;
    rule(Lane<T>(x[i]), Lane<T>(t[i]), Lane<T>(w[i]), l, g);
    loss[i] = l.raw, grad[i] = g.raw;
  }
}

struct Entry {
  const char* name;
  void (*run[2])(const double*, const void* const*, void* const*, std::size_t);
};
const auto entries = Losses::table([]<template <class> class Loss>() {
  return Entry{Loss<float>::name, {elements<Loss, float>, elements<Loss, double>}};
});

// One row of C classes, summed one after the other, with smoothed labels of the class y.
template <class T>
double row(const T* x, std::size_t C, std::size_t y, double smoothing, double z, T* grad) {
  using V = Lane<T>;
  const CrossEntropy<T> rule{T(1 - smoothing), T(smoothing / double(C))};
  const V one(T(1)), zero(T(0)), q = rule.mass(zero, one);
  V max(x[0]), sum(T(0)), all(T(0)), mass(T(0)), rest(T(0));
  for (std::size_t c = 1; c < C; ++c) max = larger(V(x[c]), max);
  for (std::size_t c = 0; c < C; ++c) {
    const V distance = V(x[c]) - max, e = exp_of_negative(distance);
    split_sum(distance, e, sum, all);
    mass = mass + q;
    rest = rest - CrossEntropy<T>::share(q, distance);
    grad[c] = e.raw;
  }
  const double s = joined_sum(sum.raw, all.raw), own = 1 - smoothing, m = double(max.raw);
  const double total = double(mass.raw) + own, log_sum = log(Lane<double>(s)).raw;
  const double factor = row_height(m, log_sum, total, z) / s;
  for (std::size_t c = 0; c < C; ++c) grad[c] = CrossEntropy<T>::slope(V(grad[c]), V(T(factor)), q, one).raw;
  grad[y] -= T(own);
  using D = Lane<double>;
  return row_loss(D(m), D(log_sum), D(total), D(double(rest.raw) + own * (m - double(x[y]))), z).raw;
}

}  // namespace

extern "C" {

int loss_count() { return int(entries.size()); }
const char* loss_name(int loss) { return entries[std::size_t(loss)].name; }
void loss_run(int loss, int is_double, const double* hyper, const void* const* arrays, void* const* results,
              std::size_t n) {
  entries[std::size_t(loss)].run[is_double](hyper, arrays, results, n);
}
double row_float(const float* x, std::size_t C, std::size_t y, double smoothing, double z, float* grad) {
  return row(x, C, y, smoothing, z, grad);
}
double row_double(const double* x, std::size_t C, std::size_t y, double smoothing, double z, double* grad) {
  return row(x, C, y, smoothing, z, grad);
}
double nll_loss(double x_y, double w_y) { return NLL::loss(x_y, w_y) + 0 * NLL::slope(w_y); }

}  // extern "C"
