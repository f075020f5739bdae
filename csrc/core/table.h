// The seam between the bindings and the kernels of one instruction set (or device): plain pointers and one Table of
// functions. The bindings know nothing of rules and cells beyond the names and counts written here.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace fusedstep {

inline constexpr int kMaxStates = 3;
inline constexpr std::size_t kRuleBytes = 128;  // room for any rule

// The arrays of one parameter tensor.
struct Tensor {
  void* p;
  void* g;  // written only where `zero` is asked for
  void* state[kMaxStates];
};

// Elements [begin, end) of a tensor: p and the states are updated from grad_scale·g.
using Step = void (*)(const void* rule, double grad_scale, bool zero, const Tensor& tensor, std::size_t begin,
                      std::size_t end);

struct RuleEntry {
  const char* name;
  const char* hyper;  // names of the hyperparameters that `prepare` reads, in order, separated by spaces
  int states;
  // Hyperparameters and step count t (from 1) to the rule that `step` takes: computed in double, rounded once.
  void (*prepare[kDtypes])(const double* hyper, double t, void* rule);
  Step step[kDtypes];
};

// Sums of (scale·g)² over consecutive blocks of kNormBlock elements: blocks [begin, end) of a tensor of n.
inline constexpr std::size_t kNormBlock = 4096;
using SquareSums = void (*)(const void* g, std::size_t n, double scale, double* sums, std::size_t begin,
                            std::size_t end);

// One step of a recurrent cell for B rows. G gates, A accumulators (both the cell's), I inputs, H hidden units.
// Arrays are row-major; ld is the distance between rows. Matrices that a cell lacks are null.
struct CellWeights {
  const void* weight_ih;  // (G·H, I)
  const void* weight_hh;  // (G·H, H)
  const void* bias_ih;    // (G·H) or null
  const void* bias_hh;    // (G·H) or null
  const void* weight_ch;  // (peepholes, H) or null
  const void* packed;     // all of the above as CellEntry::pack laid them out, or null: then they are packed on the way
};

struct CellForward {
  std::size_t B, I, H;
  CellWeights weights;
  const void* x;  // (B, I)
  std::size_t ld_x;
  const void* state[2];  // (B, H) each
  std::size_t ld_state[2];
  void* out[2];  // (B, H) each; may be the arrays of `state`
  void* saved;   // (B, S·H) what backward needs, or null
};

struct CellBackward {
  std::size_t B, I, H;
  CellWeights weights;  // `packed` is not used
  const void* x;        // (B, I)
  std::size_t ld_x;
  const void* state[2];  // (B, H) each
  std::size_t ld_state[2];
  const void* out[2];   // (B, H) what forward returned
  const void* saved;    // (B, S·H)
  const void* dout[2];  // (B, H) gradients of the new state
  // Results; every one is written whole.
  void* dx;          // (B, I)
  void* dstate[2];   // (B, H) each
  void* dweight_ih;  // (G·H, I)
  void* dweight_hh;  // (G·H, H)
  void* dbias_ih;    // (G·H)
  void* dbias_hh;    // (G·H)
  void* dweight_ch;  // (peepholes, H)
};

struct CellEntry {
  const char* name;
  int gates, states, saved, peepholes;
  std::size_t (*packed_bytes[kDtypes])(std::size_t I, std::size_t H);
  void (*pack[kDtypes])(const CellWeights& weights, std::size_t I, std::size_t H, void* packed);
  void (*forward[kDtypes])(const CellForward& call);
  void (*backward[kDtypes])(const CellBackward& call);
};

struct MathEntry {
  const char* name;
  void (*apply[kDtypes])(const void* x, void* y, std::size_t n);
};

struct Table {
  const char* isa;
  const RuleEntry* rules;
  int n_rules;
  const CellEntry* cells;
  int n_cells;
  const MathEntry* math;  // the functions of core/math.h, for tests and users
  int n_math;
  SquareSums square_sums[kDtypes];
  // Runs rounds of fused multiply-adds on registers that wait for nothing; returns their number of FLOPs.
  double (*fma_loop[kDtypes])(std::size_t rounds);
};

// The table that this process uses, chosen at import.
const Table& table();
std::vector<const char*> built_isas();
// Chooses the best that the machine runs, or the one that FUSEDSTEP_ISA names (null where unset). Returns the error, or
// "".
std::string choose_table(const char* forced);

}  // namespace fusedstep
