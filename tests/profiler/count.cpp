// Counts the floating-point operations of every rule, cell, loss and function by running them over a type that counts.
// Prints lines: what it is, its name, which hyperparameters are not 0 (bits), operations forward, operations backward.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "core/fn.h"
#include "core/math.h"
#include "core/vector.h"

namespace fusedstep::ISA {

long operations = 0;

struct Count {
  using Scalar = float;
  using Raw = float;
  using Bits = std::int32_t;
  float raw = 0;

  Count() = default;
  Count(float x) : raw(x) {}
  static Count number(std::int32_t bits) { return float(bits); }
  static Count counted(float x, int n = 1) {
    operations += n;
    return x;
  }
  friend Count operator+(Count a, Count b) { return counted(a.raw + b.raw); }
  friend Count operator-(Count a, Count b) { return counted(a.raw - b.raw); }
  friend Count operator*(Count a, Count b) { return counted(a.raw * b.raw); }
  friend Count operator/(Count a, Count b) { return counted(a.raw / b.raw); }
  friend Count sqrt(Count a) { return counted(std::sqrt(a.raw)); }
  friend Count fma(Count a, Count b, Count c) { return counted(std::fma(a.raw, b.raw, c.raw), 2); }
  friend Count max(Count a, Count b) { return counted(std::fmax(a.raw, b.raw)); }
  friend Count min(Count a, Count b) { return counted(std::fmin(a.raw, b.raw)); }
  // Signs, comparisons and choices are not arithmetic.
  friend Count operator-(Count a) { return -a.raw; }
  friend bool operator<(Count a, Count b) { return a.raw < b.raw; }
  friend bool operator>(Count a, Count b) { return a.raw > b.raw; }
  friend bool operator<=(Count a, Count b) { return a.raw <= b.raw; }
  friend bool operator>=(Count a, Count b) { return a.raw >= b.raw; }
  friend bool operator==(Count a, Count b) { return a.raw == b.raw; }
  friend bool operator!=(Count a, Count b) { return a.raw != b.raw; }
  friend Count select(bool mask, Count a, Count b) { return mask ? a : b; }
};

}  // namespace fusedstep::ISA

#include "loss/losses.h"
#include "optim/prepare.h"
#include "optim/rules.h"
#include "rnn/cells.h"

namespace fusedstep::ISA {
namespace {

template <class F>
long count(F f) {
  operations = 0;
  f();
  return operations;
}

// f(bits, hyper) for every choice of hyperparameters that are 0.
template <class F>
void each_choice(const char* names, F f) {
  int n = *names != '\0';
  for (const char* c = names; *c; ++c) n += *c == ' ';
  for (unsigned bits = 0; bits < 1u << n; ++bits) {
    double hyper[16] = {};
    for (int i = 0; i < n; ++i) hyper[i] = bits >> i & 1 ? 0.5 : 0;
    f(bits, hyper);
  }
}

template <template <class> class Rule>
void rule() {
  using R = Rule<float>;
  each_choice(R::hyper, [](unsigned bits, const double* hyper) {
    alignas(double) unsigned char prepared[kRuleBytes];
    prepare<Rule, float>(hyper, 1, prepared);
    R r;
    std::memcpy(&r, prepared, sizeof r);
    Count p, a, b, c;
    const long n = count([&] {
      if constexpr (R::states == 1)
        r(p, Count(1), a);
      else if constexpr (R::states == 2)
        r(p, Count(1), a, b);
      else
        r(p, Count(1), a, b, c);
    });
    std::printf("rule %s %u %ld 0\n", R::name, bits, n);
  });
}

template <class Cell>
void cell() {
  Count a[16], s[2], next[2], ds[2], w[3], da[16], da_state[16], d_o, dc;
  const long forward = count([&] {
    if constexpr (requires { Cell::reset(a, s[0]); }) Cell::reset(a, s[0]);
    Cell::forward(a, s, w);
    if constexpr (Cell::layer_norm && Cell::states > 1) Cell::output(a[0], s[1]);
  });
  const long backward = count([&] {
    if constexpr (Cell::layer_norm && Cell::states > 1) Cell::output_backward(a[0], s[1], ds[0], d_o, dc);
    Cell::backward(a, s, next, ds, w, da, da_state);
    if constexpr (requires { Cell::reset_backward(a[0], s[0], s[0], da[0], ds[0]); })
      Cell::reset_backward(a[0], s[0], s[0], da[0], ds[0]);
  });
  std::printf("cell %s 0 %ld %ld\n", Cell::name, forward, backward);
}

template <class Loss>
void loss() {
  each_choice(Loss::hyper, [](unsigned bits, const double* hyper) {
    const Loss of = Loss::prepare(hyper);
    Count value, grad;
    std::printf("loss %s %u %ld 0\n", Loss::name, bits, count([&] { of(Count(1), Count(1), Count(1), value, grad); }));
  });
}

template <class F>
void function(const char* name, F f) {
  std::printf("function %s 0 %ld 0\n", name, count([&] { f(Count(0.5f)); }));
}

}  // namespace
}  // namespace fusedstep::ISA

int main() {
  using namespace fusedstep::ISA;
  Rules::table([]<template <class> class Rule> {
    rule<Rule>();
    return 0;
  });
  Cells::table_of<float>([](auto of) {
    cell<typename decltype(of)::type>();
    return 0;
  });
  Losses::table_of<float>([](auto of) {
    loss<typename decltype(of)::type>();
    return 0;
  });
  function("exp", [](Count x) { exp(x); });
  function("exp_of_negative", [](Count x) { exp_of_negative(-x); });
  function("log", [](Count x) { log(x); });
  function("log1p", [](Count x) { log1p(x); });
  function("log1p_of_positive", [](Count x) { log1p_of_positive(x); });
  function("tanh", [](Count x) { tanh(x); });
  function("sigmoid", [](Count x) { sigmoid(x); });
  function("softplus", [](Count x) { softplus(x); });
}
