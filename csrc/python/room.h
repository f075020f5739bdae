// Memory that the next one finds again.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "cpu/memory.h"

namespace fusedstep::python {

// Memory of a call, a tape or a result. What is freed stays with its thread, up to a limit, for those that follow:
// fresh pages cost as much as packing weights into them, and a step of training 3 to 7 % of its time.
class Room {
 public:
  explicit Room(std::size_t bytes) : bytes_(bytes), block_(Pool::gone() ? fresh(bytes) : pool().take(bytes)) {}
  Room(Room&& other) noexcept : bytes_(other.bytes_), block_(std::exchange(other.block_, {})) {}
  ~Room() { Pool::gone() ? std::free(block_.data) : pool().give(block_); }
  Room(const Room&) = delete;
  char* data() const { return static_cast<char*>(block_.data); }
  std::size_t size() const { return bytes_; }

 private:
  struct Block {
    void* data = nullptr;
    std::size_t capacity = 0;
  };
  static Block fresh(std::size_t bytes) {
    const Block block{allocate(bytes), bytes};
    if (!block.data) throw std::bad_alloc();
    return block;
  }
  class Pool {
   public:
    ~Pool() {
      for (const Block& block : spare_) std::free(block.data);
      gone() = true;
    }
    // Whether this thread's was destroyed: results may outlive it, where an embedded Python ends late.
    static bool& gone() {
      thread_local bool is = false;
      return is;
    }
    // The smallest that is large enough, but not a much larger one.
    Block take(std::size_t bytes) {
      if (bytes == 0) return {};
      auto best = spare_.end();
      for (auto block = spare_.begin(); block != spare_.end(); ++block)
        if (block->capacity >= bytes && block->capacity / 2 <= bytes &&
            (best == spare_.end() || block->capacity < best->capacity))
          best = block;
      if (best != spare_.end()) {
        const Block block = *best;
        spare_.erase(best);
        total_ -= block.capacity;
        return block;
      }
      return fresh(bytes);
    }
    void give(const Block& block) {
      if (!block.data) return;
      spare_.push_back(block);
      total_ += block.capacity;
      for (; total_ > kLimit; spare_.erase(spare_.begin())) {  // the longest unused first
        total_ -= spare_.front().capacity;
        std::free(spare_.front().data);
      }
    }

   private:
    static constexpr std::size_t kLimit = std::size_t(128) << 20;
    std::vector<Block> spare_;
    std::size_t total_ = 0;
  };
  static Pool& pool() {
    thread_local Pool own;
    return own;
  }

  std::size_t bytes_;
  Block block_;
};

}  // namespace fusedstep::python
