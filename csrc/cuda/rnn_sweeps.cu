// Launches the persistent kernels: how much each block keeps, and whether it fits.
#include <array>
#include <atomic>
#include <optional>

#include "cuda/launch.cuh"
#include "cuda/recurrence.h"
#include "cuda/rnn.cuh"

namespace fusedstep::ISA {
namespace {

// Hidden units of a block, rows of a chunk, blocks of each sweep, bytes of shared memory.
struct Plan {
  unsigned units, rows, blocks;
  std::size_t shared;
};

// Units as few as the multiprocessors allow, rows as many as the rest of the memory holds.
template <class Cell>
std::optional<Plan> plan(std::size_t B, std::size_t H, int n, bool backward, const Multiprocessors& device) {
  using U = Unit<Cell>;
  using T = typename U::T;
  constexpr std::size_t least_rows = 4;  // fewer, and a chunk reads the weights for too little
  const std::size_t most_blocks = std::size_t(device.count / n);
  if (most_blocks == 0) return {};
  const std::size_t units = (H + most_blocks - 1) / most_blocks, weights = U::G * units * H * sizeof(T),
                    row = ((backward ? U::state_gates : 1) * H + U::G * units) * sizeof(T);
  if (units > kThreads || weights > device.shared) return {};
  const std::size_t most_rows = std::min((device.shared - weights) / row, std::size_t(kThreads) / units);
  if (most_rows < std::min(B, least_rows)) return {};
  const std::size_t chunks = (B + most_rows - 1) / most_rows, rows = (B + chunks - 1) / chunks;
  return Plan{unsigned(units), unsigned(rows), unsigned((H + units - 1) / units), weights + rows * row};
}

template <class Cell>
bool fits(std::size_t B, std::size_t H, int n, bool backward, const Multiprocessors& device) {
  return B > 0 && plan<Cell>(B, H, n, backward, device).has_value();
}

template <class Cell, bool backward>
void sweep(const Recurrence* sweeps, int n, unsigned* arrived, const Multiprocessors& device, Stream stream) {
  const auto of = plan<Cell>(sweeps[0].B, sweeps[0].H, n, backward, device);
  if (!of) throw std::invalid_argument("a sweep that does not fit the device");
  constexpr auto kernel = backward ? sweep_back_kernel<Cell> : sweep_kernel<Cell>;
  PersistentCall call{{sweeps[0], sweeps[n - 1]}, of->units, of->rows, arrived};
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(of->shared)), Cell::name);
  launch(Cell::name, kernel,
         {.blocks = {of->blocks, unsigned(n)},
          .threads = {kThreads},
          .stream = stream,
          .shared_bytes = of->shared,
          .cooperative = true},
         call);
}

constexpr auto entries = Cells::table_of<float>([](auto cell) {
  using Cell = typename decltype(cell)::type;
  if constexpr (Cell::layer_norm)
    return PersistentEntry{};
  else
    return PersistentEntry{
        .name = Cell::name, .fits = fits<Cell>, .sweep = sweep<Cell, false>, .sweep_back = sweep<Cell, true>};
});

int attribute(cudaDeviceAttr of, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, of, device), "the device");
  return value;
}

}  // namespace

const PersistentEntry* persistent(const std::string& name, Dtype dtype) {
  if (dtype == Dtype::f32)
    for (const PersistentEntry& entry : entries)
      if (entry.name && entry.name == name) return &entry;
  return nullptr;
}

Multiprocessors multiprocessors() {
  // Asked for once each: the attributes of the first so many devices.
  static std::array<std::atomic<int>, 64> counts{}, shared{};
  int device = 0;
  check(cudaGetDevice(&device), "the device");
  const bool kept = device < int(counts.size());
  if (kept && shared[std::size_t(device)] > 0)
    return {counts[std::size_t(device)], std::size_t(shared[std::size_t(device)])};
  const bool can = attribute(cudaDevAttrCooperativeLaunch, device);
  const int count = can ? attribute(cudaDevAttrMultiProcessorCount, device) : 0,
            bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (kept) {
    counts[std::size_t(device)] = count;
    shared[std::size_t(device)] = bytes;
  }
  return {count, std::size_t(bytes)};
}

}  // namespace fusedstep::ISA
