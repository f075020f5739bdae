// The seam between the bindings of fusedstep._cuda and the recurrent kernels: plain pointers, all of them to device
// memory, and functions that launch. None of them allocates, copies to the host or waits.
//
// What the weight matrices' products give comes from the caller (per-step path: cuBLAS), or is the persistent kernels'
// own doing. The cells' mathematics is that of csrc/rnn, forward and backward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/table.h"
#include "cuda/device.h"

namespace fusedstep::cuda {

inline constexpr int kRecurrentStates = 2;  // h, c

// One direction of a layer over S steps and B rows: G gates, H hidden units. A row takes part in its first `length`
// steps; the kernels leave alone what is beyond, but for the state, which they carry on. Arrays over the caller's steps
// and rows are strided, and a row going in reverse starts at its own last step. Internal arrays (S, B, …) are indexed
// by slot: the caller's step where that is the same for all rows, else the number of the step as it is taken.
struct Recurrence {
  std::size_t S, B, H;
  const std::int64_t* lengths;  // (B), or null: all are S
  const bool* reset;            // (step, row): whether the state is zeroed before it; or null
  std::ptrdiff_t ld_reset[2];
  bool reverse;
  // Steps that are replayed, from `first` on: what is indexed by slot or by the caller's step begins with that one and
  // is in the order in which steps are taken, but for y, dy and `states`, which are whole, and read alone.
  bool replayed;
  std::size_t first;

  const void* weight_hh;  // (G·H, H): the persistent kernels' alone
  const void* bias_ih;    // (G·H) or null
  const void* bias_hh;    // (G·H) or null
  const void* weight_ch;  // (peepholes, H) or null
  const void* gain_ih;    // (G·H), of a cell with norms, as all that follow
  const void* gain_hh;    // (G·H)
  const void* gain_c;     // (H), where there is a second state
  const void* bias_c;     // (H) or null

  const void* initial[kRecurrentStates];  // (B, H) before the first step
  std::size_t ld_initial[kRecurrentStates];
  Strided input;      // (T, B, G·H): x·W_ihᵗ. A cell with two products writes r and z over theirs
  Strided y;          // (T, B, H) h after each step; data null: not wanted
  void *h[2], *c[2];  // (B, H): before step s they are in h[s mod 2] and c[s mod 2]; the c may be one array
  // Zoneout and recurrent dropout (core/noise.h): what multiplies h before W_hh (B, H), and where what that gives lies,
  // as h does; (S, B, H) bit i of a byte where state i stays, steps in the order in which they are taken, or null: then
  // zoneout mixes at these rates.
  const void* mask;
  void* masked[2];
  const std::uint8_t* stays;
  double zoneout[kRecurrentStates];
  // Of the step in hand: h·W_hhᵗ (B, state gates·H), and of a cell with two products r·h (B, H) and what W_hn makes of
  // it. A cell that normalises c′ leaves o and c′ in `hidden`.
  void* hidden;
  void* reset_h;
  const void* late;
  // What backward needs; null where it is not wanted.
  void* saved;       // (S, B, values, H); may be the memory of `input` where both have one shape and order
  void* states;      // (S, B, H): c after each step
  void* statistics;  // (S, B, norms, 2): mean and 1/σ of what the cell normalises

  // Backward.
  Strided dy;        // (T, B, H), data null: zeros
  void* dh;          // (B, H): of h after the last step, then of h before the first, as dc
  void* dc;          // (B, H)
  void* through;     // (B, H): what W_hh's columns make of the step before's gate gradients
  Strided dinput;    // (T, B, G·H): gradients of the gates' preactivations as W_ih sees them; may be `saved`, likewise
  void* dstate;      // (S, B, state gates·H): as W_hh sees them, or null where `dinput` serves: same values, same order
  void* dlate;       // (S, B, H): n's, of a cell with two products
  void* dreset_h;    // (B, H): what W_hn's columns make of them
  void* previous_h;  // (S, B, H): h before each step as W_hh sees it
  void* previous_c;  // (S, B, H), or null
  void* next_c;      // (S, B, H): c′ before zoneout, or null
  void* all_reset_h;  // (S, B, H): r·h of each step
  void* m;            // (S, B, H): h′ of each step again, which a projection reads; or null
  // Of a cell that normalises c′: N(c′), and the gradient of what gain and bias make of it, (S, B, H) each. Its gates'
  // gradients replace the gates in `saved`.
  void *normed_c, *dnormed_c;
};

struct RecurrentEntry {
  const char* name;
  int gates, states, values, peepholes;  // values: what `saved` holds of a unit
  int norms;                             // vectors of a row that are normalised in a step
  int input_gates;                       // how many gates the product with W_ih feeds
  int state_gates;                       // and the first one with W_hh
  bool separate;                         // whether W_hh sees gradients of its own
  const int* peephole_gate;              // the peepholes' gradients are sums of this gate's
  const bool* peephole_sees_next;        // times c after the step, else before it
  const int* state_slot;                 // with norms: where in `saved` a gate's gradient by W_hh comes to lie

  // The per-step path. begin; then for each step [reset_stage, then the second product,] forward.
  void (*begin)(const Recurrence& r, Stream stream);
  void (*reset_stage)(const Recurrence& r, std::size_t step, Stream stream);  // null without a second product
  void (*forward)(const Recurrence& r, std::size_t step, Stream stream);
  // From the last step to the first: backward [, then the second product's, reset_backward]; then finish.
  void (*backward)(const Recurrence& r, std::size_t step, Stream stream);
  void (*reset_backward)(const Recurrence& r, std::size_t step, Stream stream);
  void (*finish)(const Recurrence& r, Stream stream);
};
// Null where there is no such cell. "projection" is one of the P units of h where W_hr makes it of the LSTM's output m
// (projection.cuh): `hidden` is W_hr·m, `dstate` the gradients of h that W_hr sees.
const RecurrentEntry* recurrent(const std::string& name, Dtype dtype);
std::vector<const char*> recurrent_names();

// The persistent path: n sweeps of one shape side by side, all their steps in one kernel. begin comes before it; finish
// is its own doing. `arrived`: kArrivals zeros for each sweep.
inline constexpr std::size_t kArrivals = 32;  // a counter, and the rest of its cache line

// What it may take of the device.
struct Multiprocessors {
  int count;
  std::size_t shared;  // bytes that one block may have
};
Multiprocessors multiprocessors();  // of the current device; none where it cannot launch cooperatively

struct PersistentEntry {
  const char* name;
  // Whether the weights fit.
  bool (*fits)(std::size_t B, std::size_t H, int n, bool backward, const Multiprocessors& device);
  void (*sweep)(const Recurrence* sweeps, int n, unsigned* arrived, const Multiprocessors& device, Stream stream);
  void (*sweep_back)(const Recurrence* sweeps, int n, unsigned* arrived, const Multiprocessors& device, Stream stream);
};
// Null where there is none: float32 alone has them.
const PersistentEntry* persistent(const std::string& name, Dtype dtype);

// The masks of a sweep: Recurrence's `mask` where there is recurrent dropout, its `stays` where there is zoneout.
void recurrent_mask(Dtype dtype, const Noise& noise, std::size_t B, std::size_t H, void* mask, Stream stream);
void zoneout_mask(const Noise& noise, std::size_t S, std::size_t B, std::size_t H, std::uint8_t* stays, Stream stream);

// The sum over n rows of a[row][column]·b[row][column], b null: of a alone, to each of `to` that is not null: written,
// or added where `add`. Rows lie ld apart. `sums`: room for sums_size(n, columns) doubles.
struct ColumnSums {
  std::size_t n, columns;
  const void* a;
  std::size_t ld_a;
  const void* b;
  std::size_t ld_b;
  void* to[2];
  bool add;
  double* sums;
};
std::size_t sums_size(std::size_t n, std::size_t columns);
void column_sums(Dtype dtype, const ColumnSums& call, Stream stream);

// From x to y, (T, B, n) each.
struct RowsCall {
  Strided x, y;
  std::size_t T, B, n;
};
// With a dropout mask, the CPU's, applied; may be in place.
void dropout(Dtype dtype, const RowsCall& rows, double p, const DropoutKey& key, Stream stream);
// Of x (…, B, n) the steps first … first+T-1 of a sweep of S steps, in the order in which it takes them, and y the
// compact array of them: to y, zeros past a row's end; or from y, added or not, and nothing past it.
struct TakenCall {
  RowsCall rows;
  const std::int64_t* lengths;
  std::size_t S, first;
  bool reverse;
};
void take_steps(Dtype dtype, const TakenCall& call, Stream stream);
void give_steps(Dtype dtype, const TakenCall& call, bool add, Stream stream);
// Where step < lengths[row], zeros elsewhere; lengths null: all of it.
void copy_rows(Dtype dtype, const RowsCall& rows, const std::int64_t* lengths, Stream stream);

// x (rows, n) as int8 codes, in float32, with a scale each row; products (rows, n) of such codes times the scales of
// their rows and columns (quantize.cuh).
void quantize(const float* x, std::size_t rows, std::size_t n, float* codes, float* scales, Stream stream);
void scale(float* products, std::size_t rows, std::size_t n, const float* of_rows, const float* of_columns,
           Stream stream);

// to[i] += from[i]
void add(Dtype dtype, void* to, const void* from, std::size_t n, Stream stream);

}  // namespace fusedstep::cuda
