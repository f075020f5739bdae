// What tests choose: how blocks and threads are ordered, and what kind of machine there seems to be.
#pragma once

#include <cstdint>

namespace cuda_host {

enum class Order { forward, reverse, random };

struct Settings {
  Order order = Order::forward;
  std::uint32_t seed = 0;   // of the random order
  int threads = 1;          // of the operating system, each with blocks of its own
  int multiprocessors = 4;  // each holds one block of a cooperative launch
  int gpus = 1;
  bool capturing = false;  // whether every stream is recorded into a graph
  bool driver = true;      // without one, every call fails as CUDA's does
  double patience = 60;    // seconds without progress after which waiting threads count as stuck
};
extern Settings settings;

}  // namespace cuda_host

// The same for callers of the shared library. The order is "forward", "reverse" or "random"; false where it is none of
// these.
extern "C" {
bool cuda_host_order(const char* order, std::uint32_t seed);
void cuda_host_threads(int threads);
void cuda_host_multiprocessors(int count);
void cuda_host_gpus(int count);
// Says that these bytes are memory of that GPU; what no one placed is GPU 0's.
void cuda_host_place(const void* memory, std::uint64_t bytes, int gpu);
void cuda_host_capturing(bool capturing);
void cuda_host_driver(bool present);
void cuda_host_patience(double seconds);

// Launches since the last call, at most `room` of them copied; returns their number.
struct cuda_host_record {
  std::uint64_t stream;
  std::uint32_t blocks, threads;
  std::uint64_t dynamic_bytes;
  std::uint32_t cooperative, gpu;
};
std::uint64_t cuda_host_records(cuda_host_record* records, std::uint64_t room);
}
