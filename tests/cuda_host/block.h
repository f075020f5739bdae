// A block of CUDA threads: where each of them waits, and what they share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda_host/threads.h"
#include "fiber.h"

namespace cuda_host {

struct Block;

enum class State { ready, at_barrier, in_warp, exited };

struct Thread {
  std::unique_ptr<Fiber> fiber;
  Block* block;
  uint3 index;
  unsigned number;  // in its block
  State state = State::ready;
  bool started = false, cancelled = false, fenced = false, paused = false;
  Where where;                     // it waits
  std::uint64_t brought[32] = {};  // what the lanes of its last meeting brought

  unsigned warp() const { return number / 32; }
  unsigned lane() const { return number % 32; }
};

// Lanes that wait for each other.
struct Meeting {
  unsigned mask, arrived;
  Where where;
  std::uint64_t values[32];
};

struct Warp {
  unsigned live = 0;  // lanes that are there and have not exited
  unsigned meetings = 0;
  std::vector<Meeting> open;
  char places[2];  // for release and acquire, by turns
};

struct Block {
  Block(uint3 index, dim3 shape, std::size_t dynamic_bytes);

  uint3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::size_t exited = 0, waiting = 0;  // threads; waiting at the barrier
  unsigned barriers = 0;
  Where where;  // the barrier at which threads wait
  char places[2];

  void* memory(const void* key, std::size_t bytes);
  void* dynamic() const { return dynamic_.get(); }

  // These two return an error, or "".
  std::string arrive_at_barrier(Thread& thread, const Where& place);
  std::string exit(Thread& thread);
  // Null `error`: the caller waits, unless it was the last.
  std::string meet(Thread& thread, unsigned mask, std::uint64_t value, const Where& place);

 private:
  struct Piece {
    const void* key;
    std::unique_ptr<unsigned char[]> bytes;
  };
  std::vector<Piece> pieces_;
  std::unique_ptr<unsigned char[]> dynamic_;

  void leave_barrier_if_all_came();
};

std::string text(const Where& where);

}  // namespace cuda_host
