// Launches what recurrent steps and sequences need beside the persistent kernels.
#include <algorithm>
#include <stdexcept>

#include "cuda/launch.cuh"
#include "cuda/noise.cuh"
#include "cuda/normed.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/projection.cuh"
#include "cuda/quantize.cuh"
#include "cuda/recurrence.h"
#include "cuda/rows.cuh"

namespace fusedstep::ISA {
namespace {

unsigned blocks_for(std::size_t n, std::size_t each, std::size_t most) {
  return unsigned(std::min((n + each - 1) / each, most));
}
// Limits of a grid.
constexpr std::size_t kMostX = 0x7FFFFFFF, kMostY = 65535;

// f.operator()<T>() for the type of a dtype.
template <class F>
auto with_type(Dtype dtype, F f) {
  return dtype == Dtype::f32 ? f.template operator()<float>() : f.template operator()<double>();
}

template <auto kernel, const char* const& what, class... Step>
void over_units(const Recurrence& r, Step... step, Stream stream) {
  if (r.B == 0) return;
  const Grid grid{.blocks = {blocks_for(r.H, kUnits, kMostX), blocks_for(r.B, kRows, kMostY)},
                  .threads = {kUnits, kRows},
                  .stream = stream};
  launch(what, kernel, grid, r, step...);
}

// A block of threads for each row.
template <class Cell, auto kernel>
void over_rows(const Recurrence& r, std::size_t step, Stream stream) {
  if (r.B == 0) return;
  constexpr std::size_t unasked = 48 << 10;  // bytes of shared memory that every kernel may have
  const std::size_t threads = std::min<std::size_t>((r.H + kWarp - 1) / kWarp * kWarp, kRowThreads),
                    shared = SharedSums<Cell>::bytes(r.H);
  if (shared > unasked)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), Cell::name);
  launch(Cell::name, kernel,
         {.blocks = {unsigned(r.B)}, .threads = {unsigned(threads)}, .stream = stream, .shared_bytes = shared}, r,
         step);
}

template <class Cell>
constexpr RecurrentEntry entry_of() {
  using U = Unit<Cell>;
  constexpr auto& name = Cell::name;
  RecurrentEntry entry{.name = name,
                       .gates = Cell::gates,
                       .states = Cell::states,
                       .values = Cell::layer_norm ? Cell::saved : Cell::values,
                       .peepholes = Cell::peepholes,
                       .norms = kNorms<Cell>,
                       .input_gates = Cell::InputGates::count,
                       .state_gates = U::state_gates,
                       .separate = Cell::separate_state_gradients || Cell::layer_norm,
                       .peephole_gate = nullptr,
                       .peephole_sees_next = nullptr,
                       .state_slot = nullptr,
                       .begin = over_units<begin_kernel<typename U::T>, name>,
                       .reset_stage = nullptr,
                       .forward = nullptr,
                       .backward = nullptr,
                       .reset_backward = nullptr,
                       .finish = over_units<finish_kernel<typename U::T>, name>};
  if constexpr (Cell::layer_norm) {
    entry.state_slot = Cell::state_slot;
    entry.forward = over_rows<Cell, normed_forward_kernel<Cell>>;
    entry.backward = over_rows<Cell, normed_backward_kernel<Cell>>;
  } else {
    entry.forward = over_units<forward_kernel<Cell>, name, std::size_t>;
    entry.backward = over_units<backward_kernel<Cell>, name, std::size_t>;
  }
  if constexpr (Cell::peepholes > 0) {
    entry.peephole_gate = Cell::peephole_gate;
    entry.peephole_sees_next = Cell::peephole_sees_next;
  }
  if constexpr (U::has_late) {
    entry.reset_stage = over_units<reset_kernel<Cell>, name, std::size_t>;
    entry.reset_backward = over_units<reset_backward_kernel<Cell>, name, std::size_t>;
  }
  return entry;
}

template <class T>
constexpr auto entries = Cells::table_of<T>([](auto cell) { return entry_of<typename decltype(cell)::type>(); });

template <class T>
constexpr RecurrentEntry projection = entry_of<ProjectedOutput<T>>();

}  // namespace

const RecurrentEntry* recurrent(const std::string& name, Dtype dtype) {
  return with_type(dtype, [&]<class T>() -> const RecurrentEntry* {
    for (const RecurrentEntry& entry : entries<T>)
      if (entry.name == name) return &entry;
    return name == projection<T>.name ? &projection<T> : nullptr;
  });
}

std::vector<const char*> recurrent_names() {
  std::vector<const char*> names;
  for (const RecurrentEntry& entry : entries<float>) names.push_back(entry.name);
  return names;
}

namespace {

Grid masks(std::size_t H, std::size_t rows, Stream stream) {
  return {.blocks = {blocks_for(H, kMaskUnits, kMostX), blocks_for(rows, kMaskRows, kMostY)},
          .threads = {kMaskUnits, kMaskRows},
          .stream = stream};
}

}  // namespace

void recurrent_mask(Dtype dtype, const Noise& noise, std::size_t B, std::size_t H, void* mask, Stream stream) {
  if (B == 0) return;
  with_type(dtype, [&]<class T>() {
    launch("recurrent dropout", recurrent_mask_kernel<T>, masks(H, B, stream), noise, B, H, as<T>(mask));
  });
}

void zoneout_mask(const Noise& noise, std::size_t S, std::size_t B, std::size_t H, std::uint8_t* stays, Stream stream) {
  if (S * B == 0) return;
  launch("zoneout", zoneout_mask_kernel, masks(H, S * (B / 2 + 1), stream), noise, S, B, H, stays);
}

std::size_t sums_size(std::size_t n, std::size_t columns) { return (n + kLineBlock - 1) / kLineBlock * columns; }

void column_sums(Dtype dtype, const ColumnSums& call, Stream stream) {
  if (call.columns == 0) return;
  const unsigned blocks = blocks_for(call.n, kLineBlock, kMostY);
  if (blocks * kLineBlock < call.n) throw std::length_error("sums over more rows than a grid takes");
  with_type(dtype, [&]<class T>() {
    const Grid sums{.blocks = {blocks_for(call.columns, kColumns, kMostX), blocks},
                    .threads = {kColumns, kLines},
                    .stream = stream,
                    .shared_bytes = kColumns * kLines * sizeof(double)};
    const Grid finish{.blocks = {blocks_for(call.columns, kColumns * kLines, kMostX)},
                      .threads = {kColumns * kLines},
                      .stream = stream};
    if (blocks > 0) launch("sums", column_sums_kernel<T>, sums, call);
    launch("sums", finish_sums_kernel<T>, finish, call, std::size_t(blocks));
  });
}

namespace {

Grid lines(const RowsCall& rows, Stream stream) {
  return {.blocks = {blocks_for(rows.T * rows.B, kLines, kMostY)}, .threads = {kColumns, kLines}, .stream = stream};
}
bool empty(const RowsCall& rows) { return rows.T * rows.B * rows.n == 0; }

}  // namespace

void dropout(Dtype dtype, const RowsCall& rows, double p, const DropoutKey& key, Stream stream) {
  if (empty(rows)) return;
  with_type(dtype, [&]<class T>() {
    launch("dropout", dropout_kernel<T>, lines(rows, stream), rows, key, draw_threshold(p), T(1 / (1 - p)));
  });
}

void copy_rows(Dtype dtype, const RowsCall& rows, const std::int64_t* lengths, Stream stream) {
  if (empty(rows)) return;
  with_type(dtype, [&]<class T>() { launch("copy", copy_kernel<T>, lines(rows, stream), rows, lengths); });
}

void take_steps(Dtype dtype, const TakenCall& call, Stream stream) {
  if (empty(call.rows)) return;
  with_type(dtype, [&]<class T>() { launch("steps", take_kernel<T>, lines(call.rows, stream), call); });
}
void give_steps(Dtype dtype, const TakenCall& call, bool add, Stream stream) {
  if (empty(call.rows)) return;
  with_type(dtype, [&]<class T>() { launch("steps", give_kernel<T>, lines(call.rows, stream), call, add); });
}

void quantize(const float* x, std::size_t rows, std::size_t n, float* codes, float* scales, Stream stream) {
  if (rows == 0) return;
  const Grid grid{.blocks = {blocks_for(rows, kCodeRows, kMostX)}, .threads = {kWarp, kCodeRows}, .stream = stream};
  launch("int8 codes", quantize_kernel, grid, x, rows, n, codes, scales);
}

void scale(float* products, std::size_t rows, std::size_t n, const float* of_rows, const float* of_columns,
           Stream stream) {
  if (rows * n == 0) return;
  const Grid grid{.blocks = {blocks_for(n, kWarp, kMostX), blocks_for(rows, kCodeRows, kMostY)},
                  .threads = {kWarp, kCodeRows},
                  .stream = stream};
  launch("int8 scales", scale_kernel, grid, products, rows, n, of_rows, of_columns);
}

void add(Dtype dtype, void* to, const void* from, std::size_t n, Stream stream) {
  if (n == 0) return;
  const Grid grid{
      .blocks = {blocks_for(n, kColumns * kLines, kMostY)}, .threads = {kColumns * kLines}, .stream = stream};
  with_type(dtype, [&]<class T>() { launch("add", add_kernel<T>, grid, as<T>(to), as<T>(from), n); });
}

}  // namespace fusedstep::ISA
