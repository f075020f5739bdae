// The record of calls that `fusedstep.profile` reads: which method, its shapes and options, when and on how many
// threads. Bytes and FLOPs follow from these in Python (profiler/work.py).
//
// Calls on a GPU are recorded by Python (_record.py), which knows when they ran when the GPU has done them: `threads`
// is 0, and a number stands in the place of the times.
//
// While no profile is open a call pays for one relaxed load and a branch.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/dtype.h"
#include "cpu/team_size.h"

namespace fusedstep::python {

// What a record is of; the numbers that it has (`Call::n`).
enum class Kind : std::uint8_t {
  optimizer,          // tensors, elements
  cell,               // B, I, H
  cell_backward,      // B, I, H
  sequence,           // pairs of a step and a row, steps of the longest row, B, I, H, P, directions
  sequence_backward,  // likewise
  stream,             // B, I, H, P, layers
  loss,               // elements, bytes of the targets and weights
  loss_rows,          // rows, classes, bytes of the targets and weights
  custom_loss,        // elements, elements of a row, bytes read, bytes written, FLOPs of an element, FLOPs of a row
  dropout,            // elements
  matmul,             // FLOPs, bytes
  range,              // none
};
inline constexpr const char* kKindNames[] = {"optimizer",         "cell",    "cell_backward", "sequence",
                                             "sequence_backward", "stream",  "loss",          "loss_rows",
                                             "custom_loss",       "dropout", "matmul",        "range"};

// Options, as bits. Of optimizers and losses the lowest 16 tell which hyperparameters are not 0, in the order of
// RuleEntry::hyper; two bits are a Storage.
namespace option {
inline constexpr std::uint32_t norm = 1u << 16, zero = 1u << 17, skipped = 1u << 18;  // of optimizers
inline constexpr std::uint32_t more = 1u << 19;    // more of the record before: another rule or dtype of the same step
inline constexpr std::uint32_t master = 1u << 20;  // half formats with a float32 copy
inline constexpr std::uint32_t frozen = 1u << 0, tape = 1u << 1, lean = 1u << 2, bias = 1u << 3, dx = 1u << 4,
                               dy = 1u << 5, add = 1u << 6;  // of cells and sequences
inline constexpr int storage = 8;                            // where its bits begin
inline constexpr std::uint32_t grad = 1u << 16, values = 1u << 17, weight = 1u << 18, probabilities = 1u << 19,
                               smoothing = 1u << 20, z_loss = 1u << 21;  // of losses
}  // namespace option

// Bits of the numbers that are not 0.
template <class Numbers>
std::uint32_t used(const Numbers& numbers) {
  std::uint32_t bits = 0, bit = 1;
  for (const double number : numbers) {
    if (number != 0) bits |= bit;
    bit <<= 1;
  }
  return bits;
}

// A name that lives as long as the process.
const char* kept_name(const std::string& name);

// A call from here on, if a profile is open. One that fails is not recorded.
class Recording {
 public:
  Recording() {
    if (open_profiles.load(std::memory_order_relaxed)) [[unlikely]]
      begin();
  }
  explicit operator bool() const { return start_ != 0; }
  // Its end. `method` lives as long as the process.
  void add(Kind kind, const char* method, Dtype dtype, std::uint32_t options,
           std::initializer_list<std::int64_t> n) const;

 private:
  void begin();

  std::int64_t start_ = 0;
};

}  // namespace fusedstep::python
