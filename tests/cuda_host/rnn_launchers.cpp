// The launchers of cuda/recurrence.h as C functions, for ctypes. Each returns its error, or null.
#include <cstddef>
#include <exception>
#include <string>

#include "cuda/recurrence.h"

using namespace fusedstep;
using namespace fusedstep::cuda;

namespace {

template <class F>
const char* guarded(F f) {
  static thread_local std::string message;
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

bool has_cell(const char* kind) { return recurrent(kind, Dtype::f32) != nullptr; }

// What one step is made of, by its place in RecurrentEntry.
const char* launch_step(const char* kind, int what, const Recurrence* r, std::size_t step) {
  return guarded([&] {
    const RecurrentEntry& cell = *recurrent(kind, Dtype::f32);
    void (*const of_step[])(const Recurrence&, std::size_t, Stream) = {nullptr, cell.reset_stage, cell.forward,
                                                                       cell.backward, cell.reset_backward};
    if (what == 0)
      cell.begin(*r, nullptr);
    else if (what == 5)
      cell.finish(*r, nullptr);
    else
      of_step[what](*r, step, nullptr);
  });
}
const char* launch_sweep(const char* kind, const Recurrence* sweeps, int n, bool backward, unsigned* arrived,
                         int multiprocessors, std::size_t shared) {
  return guarded([&] {
    const PersistentEntry& entry = *persistent(kind, Dtype::f32);
    (backward ? entry.sweep_back : entry.sweep)(sweeps, n, arrived, {multiprocessors, shared}, nullptr);
  });
}
const char* launch_rows(const Strided* x, const Strided* y, std::size_t T, std::size_t B, std::size_t n,
                        const std::int64_t* lengths, double p) {
  return guarded([&] {
    copy_rows(Dtype::f32, {*x, *y, T, B, n}, lengths, nullptr);
    dropout(Dtype::f32, {*y, *y, T, B, n}, p, {1, 2, 3, 4}, nullptr);
  });
}
const char* launch_codes(const float* x, std::size_t rows, std::size_t n, float* codes, float* scales) {
  return guarded([&] {
    quantize(x, rows, n, codes, scales, nullptr);
    scale(codes, rows, n, scales, x, nullptr);
  });
}
const char* launch_masks(const Noise* noise, std::size_t S, std::size_t B, std::size_t H, void* mask,
                         std::uint8_t* stays) {
  return guarded([&] {
    recurrent_mask(Dtype::f32, *noise, B, H, mask, nullptr);
    zoneout_mask(*noise, S, B, H, stays, nullptr);
  });
}
// From x to `compact`, and from there to y.
const char* launch_taken(const Strided* x, const Strided* compact, const Strided* y, std::size_t count, std::size_t B,
                         std::size_t n, const std::int64_t* lengths, std::size_t S, std::size_t first, bool reverse) {
  return guarded([&] {
    TakenCall call{{*x, *compact, count, B, n}, lengths, S, first, reverse};
    take_steps(Dtype::f32, call, nullptr);
    call.rows.x = *y;
    give_steps(Dtype::f32, call, false, nullptr);
    give_steps(Dtype::f32, call, true, nullptr);
  });
}
const char* launch_sums(const ColumnSums* call) {
  return guarded([&] { column_sums(Dtype::f32, *call, nullptr); });
}

}  // extern "C"
