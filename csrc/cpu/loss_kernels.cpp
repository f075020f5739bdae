// Compiled once per instruction set and SCALAR, as kernels.cpp: the losses, exported as one LossTable.
#include "core/loss.h"
#include "cpu/elements.h"
#include "cpu/expression.h"
#include "cpu/loss_rows.h"
#include "loss/losses.h"

namespace fusedstep::ISA {
namespace {

using T = SCALAR;

constexpr auto losses = Losses::table([]<template <class> class Loss>() {
  return LossEntry{.name = Loss<T>::name,
                   .hyper = Loss<T>::hyper,
                   .pos_weight = Loss<T>::pos_weight,
                   .prepare = prepare_loss<Loss, T>,
                   .run = elements<Loss, T>};
});

#define FUSEDSTEP_PASTE(a, b) a##b
#define FUSEDSTEP_JOIN(a, b) FUSEDSTEP_PASTE(a, b)
#define FUSEDSTEP_LOSSES FUSEDSTEP_JOIN(losses_of_, SCALAR)

}  // namespace

extern const LossTable FUSEDSTEP_LOSSES;
const LossTable FUSEDSTEP_LOSSES = {.losses = losses.data(),
                                    .n_losses = int(losses.size()),
                                    .cross_entropy = cross_entropy<T>,
                                    .nll = nll<T>,
                                    .expression = evaluate<T>,
                                    .add = add_elements<T>};

}  // namespace fusedstep::ISA
