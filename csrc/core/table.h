// The seam between the bindings and the kernels of one instruction set (or device) and dtype: plain pointers and one
// Table of functions. The bindings know nothing of rules and cells beyond the names and counts written here.
#pragma once

#include <cstddef>
#include <cstdint>
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
  void (*prepare)(const double* hyper, double t, void* rule);
  Step step;
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
  const void* weight_hr;  // (P, H) of a sequence's projection, which then has weight_hh (G·H, P), or null
  const void* gain_ih;    // (G·H), of a cell with norms; null otherwise, as all that follow
  const void* gain_hh;    // (G·H)
  const void* gain_c;     // (H), where there is a second state
  const void* bias_c;     // (H) or null
  const void* packed;     // all of the above as CellEntry::pack laid them out, or null: then they are packed on the way
  Storage storage;        // of `packed`, or to pack them in; float32 alone has a choice
};

struct CellForward {
  std::size_t B, I, H;
  CellWeights weights;
  const void* x;  // (B, I)
  std::size_t ld_x;
  const void* state[2];  // (B, H) each
  std::size_t ld_state[2];
  void* out[2];       // (B, H) each; may be the arrays of `state`
  void* saved;        // (B, S·H) what backward needs, or null
  double zoneout[2];  // how much of each state stays, as Noise has it where no masks are drawn
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

// Sums over time and batch: each kSumBlock of terms is a chain of its own. The blocks' sums are added in order within a
// pass of kSumPass terms, and the passes' sums from the last one on, as backward comes by them.
inline constexpr std::size_t kSumBlock = 64, kSumPass = 1024;

// An array of (steps, rows, …): the distances, in elements, between consecutive steps and rows.
struct Strided {
  void* data;
  std::ptrdiff_t step, row;
};

// Zoneout and recurrent dropout: what csrc/cpu/noise.h says.
struct Noise {
  double recurrent;   // probability that a unit of h is dropped on its way to W_hh, at all steps alike
  double zoneout[2];  // probability that a unit of h, of c, stays as it was
  bool drawn;         // whether masks are drawn, of `seed`; otherwise each is its mean
  std::uint64_t seed;
  std::uint32_t stream, step, row;  // which sweep it is, and the numbers of its first step and row
};

// One direction of a layer over a sequence of T steps and B rows. h is P wide: H, or fewer where weight_hr projects the
// cell's output m, of H units, to it. The rows are taken in order of decreasing length, so
// that those which take part in a step are the first; pairs (step, row) are numbered in that order, step by step, and a
// "compact" array has a row for each of these R pairs. Going in reverse, a row starts at its own last step.
struct Sweep {
  std::size_t T, B, I, H, P;
  const std::int64_t* order;    // (B) which row is the r-th
  const std::int64_t* lengths;  // (B) of the r-th
  const std::size_t* start;     // (T + 1) number of the first pair of each step; R at the end
  const bool* reset;            // (step, row): whether the state is zeroed before it; or null
  std::ptrdiff_t ld_reset[2];
  bool reverse;
  Noise noise;

  CellWeights weights;   // forward: packed
  Strided x, y;          // (T, B, I), (T, B, P)
  const void* state[2];  // (B, P), (B, H) before the first step
  void* out[2];          // the same after the last; may be the arrays of `state`
  void* saved;           // compact (saved, H): what backward needs of the gates, then their gradients; or null
  void* states;          // compact (H): the second state after each step, or null
  void* statistics;      // compact (norms, 2): mean and 1/σ of what the cell normalises, or null

  // Backward. What is null is not wanted. Compact arrays that it fills need memory for the pairs in hand alone.
  Strided dy;           // data null: zeros
  void* dstate[2];      // (B, P), (B, H) of the state after the last step; becomes that of the state before the first
  const void* columns;  // W_hh and W_hr as CellEntry::pack_columns lays them out
  void* compact_x;      // compact x, rows ld_x apart
  std::size_t ld_x;
  void* previous_h;  // compact (P): h before each step
  void* reset_h;     // compact (H): r·h, where the cell has a second product
  void *m, *dh;      // compact (H), (P): a projection's input, and the gradient of its output
  void* dx;          // compact (I), rows ld_dx apart
  std::size_t ld_dx;
  void* next_c;      // compact (H): c′ before zoneout, where peepholes and zoneout of c meet
  double* sums;      // (saved + 2 + peepholes, H): what follows summed over the pairs so far; zeros before the first.
                     // The gates' gradients; of a cell with norms the gains' gradients, at last those of gain_c and
                     // bias_c; those of peepholes
  void* dweight_ih;  // shapes as in CellBackward
  void* dweight_hh;
  void* dbias_ih;
  void* dbias_hh;
  void* dweight_ch;
  void* dweight_hr;
  void* dgain_ih;  // shapes as in CellWeights
  void* dgain_hh;
  void* dgain_c;
  void* dbias_c;
};

struct CellEntry {
  const char* name;
  int gates, states, saved, peepholes;
  bool can_project;
  int norms;  // vectors of a row that are normalised in a step
  std::size_t (*packed_bytes)(std::size_t I, std::size_t H, std::size_t P, Storage storage);
  void (*pack)(const CellWeights& weights, std::size_t I, std::size_t H, std::size_t P, void* packed);
  // Null where the cell has no step of its own: with norms a row's units wait for each other.
  void (*forward)(const CellForward& call);
  void (*backward)(const CellBackward& call);

  // Sequences. The sweeps of a layer's directions run side by side. Steps and pairs may be done range by range.
  bool two_products;  // the cell needs Sweep::reset_h
  std::size_t (*columns_bytes)(std::size_t H, std::size_t P);
  void (*pack_columns)(const CellWeights& weights, std::size_t H, std::size_t P, void* columns);
  // Steps begin … end-1, from `state` to `out`.
  void (*sweep)(const Sweep* sweeps, int n, std::size_t begin, std::size_t end);
  // Fills compact_x (unless it is x itself) and previous_h for pairs begin … end-1.
  void (*gather)(const Sweep& sweep, std::size_t begin, std::size_t end);
  // dx of pairs begin … end-1, compact, to its places in (T, B, I): written, or added to what is there.
  void (*scatter)(const Sweep& sweep, const Strided& dx, bool add, std::size_t begin, std::size_t end);
  // Fills `saved` and `statistics` for pairs begin … end-1 from x, previous_h and `states`.
  void (*replay)(const Sweep& sweep, std::size_t begin, std::size_t end);
  // Steps end-1 … begin: `saved` becomes the gradients of the gates' preactivations, `dstate` moves to step begin.
  void (*sweep_back)(const Sweep* sweeps, int n, std::size_t begin, std::size_t end);
  // Pairs begin … end-1, begin a multiple of kSumPass: dx, and the weights' gradients, in the end added to what was
  // there where `add`. From the last pair to the first.
  void (*gradients)(const Sweep& sweep, std::size_t begin, std::size_t end, bool add);
};

struct DropoutKey {
  std::uint64_t seed;
  std::uint32_t layer, step, row;
};

inline constexpr std::size_t kStreamGrain = 16;

struct MathEntry {
  const char* name;
  void (*apply)(const void* x, void* y, std::size_t n);
};

struct Table {
  const char* isa;
  const RuleEntry* rules;
  int n_rules;
  const CellEntry* cells;
  int n_cells;
  const MathEntry* math;  // the functions of core/math.h, for tests and users
  int n_math;
  SquareSums square_sums;
  void (*dropout)(const void* x, void* y, std::size_t n, double p, const DropoutKey& key);
  // What the machine can do: rounds of fused multiply-adds on registers that wait for nothing, whose FLOPs are
  // returned, and loops that move bytes, of a multiple of kStreamGrain elements.
  double (*fma_loop)(std::size_t rounds);
  void (*copy)(const void* from, void* to, std::size_t n);
  void (*triad)(const void* b, const void* c, void* a, std::size_t n);
};

// The table that this process uses, chosen at import. Names and counts are the same for every dtype.
const Table& table(Dtype dtype = Dtype::f32);
std::vector<const char*> built_isas();
// Chooses the best that the machine runs, or the one that FUSEDSTEP_ISA names (null where unset). Returns the error, or
// "".
std::string choose_table(const char* forced);

}  // namespace fusedstep
