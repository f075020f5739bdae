// What the losses of rows share: where rows lie, which count, and what their losses are made of.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/loss.h"
#include "core/math.h"
#include "cpu/simd.h"
#include "loss/cross_entropy.h"

namespace fusedstep::ISA {

inline constexpr std::size_t kRowPad = 8;  // doubles in a vector of any instruction set

inline std::size_t padded(std::size_t n) { return (n + kRowPad - 1) / kRowPad * kRowPad; }

// Rows of a (outer, C, inner) array as contiguous ones: those of inner = 1 where they lie, others a tile of adjacent
// ones at a time, turned over in `room`, (kTile, C), and back when `write` is set.
template <class T>
class RowTile {
 public:
  static constexpr std::size_t kTile = 16;

  RowTile(const void* from, void* to, const RowsCall& call, std::size_t end, T* room)
      : from_(static_cast<const T*>(from)),
        to_(static_cast<T*>(to)),
        C_(call.C),
        inner_(call.inner),
        end_(end),
        room_(room) {}
  ~RowTile() { flush(); }
  RowTile(const RowTile&) = delete;

  // Rows are asked for in ascending order.
  void seek(std::size_t r) {
    row_ = r;
    if (inner_ == 1 || r < last_) return;
    flush();
    first_ = r;
    last_ = std::min({r + kTile, end_, (r / inner_ + 1) * inner_});
    if (!from_) return;
    const T* const x = from_ + at(r);
    for (std::size_t c = 0; c < C_; ++c)
      for (std::size_t i = 0; i < last_ - first_; ++i) room_[i * C_ + c] = x[c * inner_ + i];
  }
  const T* in() const { return inner_ == 1 ? from_ + row_ * C_ : room_ + (row_ - first_) * C_; }
  T* out() const { return !to_ ? nullptr : inner_ == 1 ? to_ + row_ * C_ : room_ + (row_ - first_) * C_; }

 private:
  std::size_t at(std::size_t r) const { return r / inner_ * C_ * inner_ + r % inner_; }
  void flush() {
    if (!to_ || first_ == last_) return;
    T* const y = to_ + at(first_);
    for (std::size_t c = 0; c < C_; ++c)
      for (std::size_t i = 0; i < last_ - first_; ++i) y[c * inner_ + i] = room_[i * C_ + c];
    first_ = last_;
  }

  const T* const from_;
  T* const to_;
  const std::size_t C_, inner_, end_;
  T* const room_;
  std::size_t row_ = 0, first_ = 0, last_ = 0;
};

// The rows of one sum: what their losses are made of, in double, and what each row's gradient takes.
struct RowBlock {
  static constexpr std::size_t kMax = rows_per_sum(1);
  alignas(64) double sum[kMax], max[kMax], mass[kMax], rest[kMax], own[kMax];

  explicit RowBlock(std::size_t n) {
    for (std::size_t i = 0; i < padded(n); ++i) sum[i] = 1, max[i] = mass[i] = rest[i] = own[i] = 0;
  }

  // Row i of weight u, whose class y has the mass q_y beside what `found` holds. Returns Q + 2z·lse, over s.
  double put(std::size_t i, RowStatistics found, double u, double q_y, double x_y, double z_loss) {
    if (q_y != 0) {
      found.mass += q_y;
      found.rest += q_y * (found.max - x_y);
    }
    sum[i] = found.sum, max[i] = found.max, mass[i] = found.mass, rest[i] = found.rest, own[i] = u;
    if (z_loss == 0) return found.mass / found.sum;
    return row_height(found.max, log(Vec<double>(found.sum)).raw[0], found.mass, z_loss) / found.sum;
  }

  template <class T>
  void finish(const RowsCall& call, std::size_t block, std::size_t first, std::size_t n) {
    using D = Vec<double>;
    if (!call.values && !call.sums) return;
    for (std::size_t i = 0; i < n; i += D::size) {
      const D loss = row_loss(load<double>(max + i), log(load<double>(sum + i)), load<double>(mass + i),
                              load<double>(rest + i), call.z_loss);
      store(sum + i, load<double>(own + i) * loss);
    }
    double total = 0;
    for (std::size_t i = 0; i < n; ++i) {
      total += sum[i];
      if (call.values) static_cast<T*>(call.values)[first + i] = T(sum[i]);
    }
    if (call.sums) call.sums[block] = total;
  }
};

// Of row r: its weight, 0 where it is left out, and the mass of its class beside what all classes get.
template <class T, bool probabilities>
struct RowTarget {
  double u, mass;
  std::size_t y;

  RowTarget(const RowsCall& call, std::size_t r) : u(1), mass(0), y(0) {
    if (call.sample_weight) u = double(static_cast<const T*>(call.sample_weight)[r]);
    if (probabilities || u == 0) return;
    if (call.index[r] == call.ignore_index) {
      u = 0;
      return;
    }
    y = std::size_t(call.index[r]);
    mass = (1 - call.smoothing) * (call.weight ? double(static_cast<const T*>(call.weight)[y]) : 1);
  }
};

}  // namespace fusedstep::ISA
