// Sequences: what the directions of a layer have in common, and what the threads share of each, forward and backward.
#pragma once

#include <cstddef>

#include "core/table.h"
#include "cpu/norm.h"
#include "cpu/pairs.h"
#include "cpu/product.h"
#include "cpu/rnn.h"
#include "cpu/threads.h"

namespace fusedstep::ISA {

template <class T>
class Room {
 public:
  const Sweep* const sweeps;
  const int n;
  const std::size_t B, I, H, P;
  const Storage storage;
  const bool two_states, projected, dropping, alone;
  const RowBlocks h_blocks, unit_blocks;  // packed rows of h, P wide, and of what the hidden units have, H wide

 protected:
  Room(const Sweep* sweeps, int n, bool two_states)
      : sweeps(sweeps),
        n(n),
        B(sweeps->B),
        I(sweeps->I),
        H(sweeps->H),
        P(sweeps->P),
        storage(sweeps->weights.storage),
        two_states(two_states),
        projected(P < H),
        dropping(sweeps->noise.recurrent > 0),
        alone(B == 1),
        h_blocks{B, P},
        unit_blocks{B, H} {}

  // Where an array of so many elements lies among a direction's.
  std::size_t take(bool wanted, std::size_t count) {
    const std::size_t at = size_;
    size_ += wanted * count;
    return at;
  }
  // Once all is taken: memory for it, and for what so many norms sum.
  void allocate(int norms) {
    sums_size_ = RowSums{B, H, nullptr}.size(norms);
    sums_ = as<double>(scratch(std::size_t(n) * (sums_size_ * sizeof(double) + size_ * sizeof(T)), 1));
    arrays_ = as<T>(static_cast<void*>(sums_ + std::size_t(n) * sums_size_));
  }
  T* arrays(std::size_t i) const { return arrays_ + i * size_; }
  RowSums sums(std::size_t i) const { return {B, H, sums_ + i * sums_size_}; }

 private:
  std::size_t size_ = 0, sums_size_ = 0;
  double* sums_ = nullptr;
  T* arrays_ = nullptr;
};

// One direction, as its threads share it.
template <class T>
struct SweepView {
  std::size_t index;
  Pairs<T> pairs;
  const T* packed;
  // Packed rows: h before a step and after it by turns, as W_hh sees it; r·h; m, which a projection reads. Then codes
  // of one of these.
  T *h[2], *reset_h, *m, *codes;
  // By panels of hidden units: the second state; with recurrent dropout h itself, and its mask.
  T *c, *whole_h, *mask;
  RowSums sums;
};

template <class T>
class SweepRoom : public Room<T> {
  static constexpr std::size_t N = Vec<T>::size;

 public:
  const std::size_t panels;
  const bool quantized;  // rows meet weights that are codes

  // For `threads` threads and a cell of so many norms.
  SweepRoom(const Sweep* sweeps, int n, int threads, bool two_states, bool two_products, int norms)
      : Room<T>(sweeps, n, two_states), panels((this->H + N - 1) / N), quantized(this->storage == Storage::int8) {
    const std::size_t B = this->B, rows = B * this->P, by_panels = panels * B * N;
    h_ = this->take(true, 2 * rows);
    reset_h_ = this->take(two_products, rows);
    c_ = this->take(two_states, by_panels);
    whole_h_ = this->take(this->dropping, by_panels);
    mask_ = this->take(this->dropping, by_panels);
    m_ = this->take(this->projected, B * this->H);
    // A row alone each thread quantises for itself: that takes less than a barrier.
    codes_ = this->take(quantized, (this->alone ? std::size_t(threads) : B) * codes_size(this->H));
    this->allocate(norms);
  }

  SweepView<T> view(std::size_t i) const {
    T* const at = this->arrays(i);
    return {.index = i,
            .pairs = {this->sweeps[i]},
            .packed = as<T>(this->sweeps[i].weights.packed),
            .h = {at + h_, at + h_ + this->B * this->P},
            .reset_h = at + reset_h_,
            .m = at + m_,
            .codes = at + codes_,
            .c = at + c_,
            .whole_h = at + whole_h_,
            .mask = at + mask_,
            .sums = this->sums(i)};
  }
  // Where a vector of units of a row lies in what is kept by panels.
  FN std::size_t in_panels(std::size_t row, std::size_t unit) const { return (unit / N * this->B + row) * N; }

 private:
  std::size_t h_, reset_h_, c_, whole_h_, mask_, m_, codes_;
};

// One direction going back.
template <class T>
struct BackView {
  std::size_t index;
  Pairs<T> pairs;
  T* gates[2];  // a step's gate gradients, packed rows, gate by gate; in one of two places by turns
  T* dh;        // of a projection, packed rows
  // By panels of columns: dh in its two parts, then the gradients of the second state, of r·h, and of m.
  T *through, *direct, *dc, *dreset_h, *dm;
  RowSums sums;
};

template <class T>
class BackRoom : public Room<T> {
  static constexpr std::size_t W = kColumns<T>;

 public:
  const int gates;

  // For a cell of so many gates and norms.
  BackRoom(const Sweep* sweeps, int n, int gates, bool two_states, bool two_products, int norms)
      : Room<T>(sweeps, n, two_states), gates(gates) {
    const std::size_t B = this->B, by_panels = column_panels<T>(this->H) * B * W;
    gates_ = this->take(true, 2 * gates_size());
    dh_ = this->take(this->projected, B * this->P);
    through_ = this->take(true, by_panels);
    direct_ = this->take(true, by_panels);
    dc_ = this->take(two_states, by_panels);
    dreset_h_ = this->take(two_products, by_panels);
    dm_ = this->take(this->projected, by_panels);
    this->allocate(norms);
  }

  BackView<T> view(std::size_t i) const {
    T* const at = this->arrays(i);
    return {.index = i,
            .pairs = {this->sweeps[i]},
            .gates = {at + gates_, at + gates_ + gates_size()},
            .dh = at + dh_,
            .through = at + through_,
            .direct = at + direct_,
            .dc = at + dc_,
            .dreset_h = at + dreset_h_,
            .dm = at + dm_,
            .sums = this->sums(i)};
  }
  // Where a vector of units of a row lies in what is kept by panels.
  FN std::size_t in_panels(std::size_t row, std::size_t unit) const {
    return (unit / W * this->B + row) * W + unit % W;
  }

 private:
  std::size_t gates_size() const { return std::size_t(gates) * this->B * this->H; }

  std::size_t gates_, dh_, through_, direct_, dc_, dreset_h_, dm_;
};

}  // namespace fusedstep::ISA
