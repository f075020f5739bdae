// Which memory of a GPU holds weights that are frozen. NumPy's arrays have a flag for it, CuPy's have none; so what
// checks arrays that are to be written asks here. A write by CuPy itself passes unseen.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace fusedstep::python {

// Ranges of addresses, for as long as this lives.
class Frozen {
 public:
  using Ranges = std::vector<std::pair<std::uintptr_t, std::size_t>>;  // address, bytes

  explicit Frozen(Ranges ranges) : ranges_(std::move(ranges)) {
    const std::lock_guard<std::mutex> lock(all().mutex);
    all().list.push_back(this);
    all().count.fetch_add(1);
  }
  ~Frozen() {
    const std::lock_guard<std::mutex> lock(all().mutex);
    std::erase(all().list, this);
    all().count.fetch_sub(1);
  }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

  static bool any() { return all().count.load(std::memory_order_relaxed) > 0; }
  static bool holds(const void* data, std::size_t bytes) {
    if (!any()) return false;
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    const std::lock_guard<std::mutex> lock(all().mutex);
    return std::ranges::any_of(all().list, [&](const Frozen* frozen) {
      return std::ranges::any_of(frozen->ranges_, [&](const auto& range) {
        return begin < range.first + range.second && range.first < begin + bytes;
      });
    });
  }

 private:
  struct All {
    std::mutex mutex;
    std::vector<const Frozen*> list;
    std::atomic<std::size_t> count{0};
  };
  // Never destroyed: modules may outlive the interpreter's own order of things.
  static All& all() {
    static All* const only = new All;
    return *only;
  }

  const Ranges ranges_;
};

}  // namespace fusedstep::python
