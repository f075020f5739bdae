// Compiled once per instruction set: instantiates every rule and cell and exports them as one Table.
#include "core/math.h"
#include "core/table.h"
#include "cpu/loops.h"
#include "cpu/rnn.h"
#include "cpu/sequence.h"
#include "cpu/sequence_back.h"
#include "cpu/sequence_gradients.h"
#include "cpu/sequence_replay.h"
#include "cpu/simd.h"
#include "optim/rules.h"
#include "rnn/cells.h"

namespace fusedstep::ISA {
namespace {

constexpr auto rules = Rules::table([]<template <class> class Rule>() {
  return RuleEntry{.name = Rule<double>::name,
                   .hyper = Rule<double>::hyper,
                   .states = Rule<double>::states,
                   .prepare = {prepare<Rule, float>, prepare<Rule, double>},
                   .step = {update<Rule, float>, update<Rule, double>}};
});

// A cell's own step, but where there is none.
template <class Cell>
constexpr auto forward_of() {
  if constexpr (Cell::layer_norm)
    return nullptr;
  else
    return forward<Cell>;
}
template <class Cell>
constexpr auto backward_of() {
  if constexpr (Cell::layer_norm)
    return nullptr;
  else
    return backward<Cell>;
}

constexpr auto cells = Cells::table([]<template <class> class Cell>() {
  return CellEntry{.name = Cell<float>::name,
                   .gates = Cell<float>::gates,
                   .states = Cell<float>::states,
                   .saved = Cell<float>::saved,
                   .peepholes = Cell<float>::peepholes,
                   .can_project = Cell<float>::can_project,
                   .norms = kNorms<Cell<float>>,
                   .packed_bytes = {packed_bytes<Cell<float>>, packed_bytes<Cell<double>>},
                   .pack = {pack<Cell<float>>, pack<Cell<double>>},
                   .forward = {forward_of<Cell<float>>(), forward_of<Cell<double>>()},
                   .backward = {backward_of<Cell<float>>(), backward_of<Cell<double>>()},
                   .two_products = Cell<float>::LateGates::count > 0,
                   .columns_bytes = {columns_bytes<Cell<float>>, columns_bytes<Cell<double>>},
                   .pack_columns = {pack_columns<Cell<float>>, pack_columns<Cell<double>>},
                   .sweep = {sweep<Cell<float>>, sweep<Cell<double>>},
                   .gather = {gather<float>, gather<double>},
                   .scatter = {scatter<float>, scatter<double>},
                   .replay = {replay<Cell<float>>, replay<Cell<double>>},
                   .sweep_back = {sweep_back<Cell<float>>, sweep_back<Cell<double>>},
                   .gradients = {gradients<Cell<float>>, gradients<Cell<double>>}};
});

template <auto f>
constexpr MathEntry function(const char* name) {
  return {name, {[](const void* x, void* y, std::size_t n) {
    map<float>(x, y, n, [](auto v) { return f(v); });
  }, [](const void* x, void* y, std::size_t n) { map<double>(x, y, n, [](auto v) { return f(v); }); }}};
}
constexpr MathEntry math[] = {
    function<[](auto x) { return exp(x); }>("exp"),
    function<[](auto x) { return sigmoid(x); }>("sigmoid"),
    function<[](auto x) { return tanh(x); }>("tanh"),
};

// The macro's value as a string.
#define FUSEDSTEP_QUOTE(x) #x
#define FUSEDSTEP_STRING(x) FUSEDSTEP_QUOTE(x)

}  // namespace

extern const Table kernel_table;
const Table kernel_table = {.isa = FUSEDSTEP_STRING(ISA),
                            .rules = rules.data(),
                            .n_rules = int(rules.size()),
                            .cells = cells.data(),
                            .n_cells = int(cells.size()),
                            .math = math,
                            .n_math = int(std::size(math)),
                            .square_sums = {square_sums<float>, square_sums<double>},
                            .dropout = {dropout<float>, dropout<double>},
                            .fma_loop = {fma_loop<float>, fma_loop<double>}};

}  // namespace fusedstep::ISA
