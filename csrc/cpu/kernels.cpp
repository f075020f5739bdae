// Compiled once per instruction set and SCALAR (float, double): instantiates every rule and cell and exports them as
// one Table.
#include "core/math.h"
#include "core/table.h"
#include "cpu/cell.h"
#include "cpu/cell_back.h"
#include "cpu/loops.h"
#include "cpu/sequence.h"
#include "cpu/sequence_back.h"
#include "cpu/sequence_gradients.h"
#include "cpu/sequence_replay.h"
#include "cpu/simd.h"
#include "optim/prepare.h"
#include "optim/rules.h"
#include "rnn/cells.h"

namespace fusedstep::ISA {
namespace {

using T = SCALAR;

constexpr auto rules = Rules::table([]<template <class> class Rule>() {
  return RuleEntry{.name = Rule<T>::name,
                   .hyper = Rule<T>::hyper,
                   .states = Rule<T>::states,
                   .prepare = prepare<Rule, T>,
                   .step = update<Rule, T>};
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

constexpr auto cells = Cells::table([]<template <class> class Template>() {
  using Cell = Template<T>;
  return CellEntry{.name = Cell::name,
                   .gates = Cell::gates,
                   .states = Cell::states,
                   .saved = Cell::saved,
                   .peepholes = Cell::peepholes,
                   .can_project = Cell::can_project,
                   .norms = kNorms<Cell>,
                   .packed_bytes = packed_bytes<Cell>,
                   .pack = pack<Cell>,
                   .forward = forward_of<Cell>(),
                   .backward = backward_of<Cell>(),
                   .two_products = Cell::LateGates::count > 0,
                   .columns_bytes = columns_bytes<Cell>,
                   .pack_columns = pack_columns<Cell>,
                   .sweep = sweep<Cell>,
                   .gather = gather<T>,
                   .scatter = scatter<T>,
                   .replay = replay<Cell>,
                   .sweep_back = sweep_back<Cell>,
                   .gradients = gradients<Cell>};
});

template <auto f>
constexpr MathEntry function(const char* name) {
  return {name, [](const void* x, void* y, std::size_t n) { map<T>(x, y, n, [](auto v) { return f(v); }); }};
}
constexpr MathEntry math[] = {
    function<[](auto x) { return exp(x); }>("exp"),     function<[](auto x) { return sigmoid(x); }>("sigmoid"),
    function<[](auto x) { return tanh(x); }>("tanh"),   function<[](auto x) { return log(x); }>("log"),
    function<[](auto x) { return log1p(x); }>("log1p"), function<[](auto x) { return softplus(x); }>("softplus"),
};

// A macro's value as a string, and as part of a name.
#define FUSEDSTEP_QUOTE(x) #x
#define FUSEDSTEP_STRING(x) FUSEDSTEP_QUOTE(x)
#define FUSEDSTEP_PASTE(a, b) a##b
#define FUSEDSTEP_JOIN(a, b) FUSEDSTEP_PASTE(a, b)
#define FUSEDSTEP_TABLE FUSEDSTEP_JOIN(table_of_, SCALAR)

}  // namespace

extern const Table FUSEDSTEP_TABLE;
const Table FUSEDSTEP_TABLE = {.isa = FUSEDSTEP_STRING(ISA),
                               .rules = rules.data(),
                               .n_rules = int(rules.size()),
                               .cells = cells.data(),
                               .n_cells = int(cells.size()),
                               .math = math,
                               .n_math = int(std::size(math)),
                               .square_sums = square_sums<T>,
                               .dropout = dropout<T>,
                               .fma_loop = fma_loop<T>,
                               .copy = copy<T>,
                               .triad = triad<T>};

}  // namespace fusedstep::ISA
