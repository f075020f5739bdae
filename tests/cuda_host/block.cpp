#include "block.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace cuda_host {
namespace {

// Memory whose floats and doubles are NaN.
std::unique_ptr<unsigned char[]> poisoned(std::size_t bytes) {
  std::unique_ptr<unsigned char[]> memory(new unsigned char[bytes]);
  std::memset(memory.get(), 0xFF, bytes);
  return memory;
}

std::string hexadecimal(unsigned mask) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "0x%08X", mask);
  return digits;
}

bool same(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

}  // namespace

std::string text(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

Block::Block(uint3 index, dim3 shape, std::size_t dynamic_bytes)
    : index(index), threads(std::size_t(shape.x) * shape.y * shape.z), dynamic_(poisoned(dynamic_bytes)) {
  warps.resize((threads.size() + 31) / 32);
  for (unsigned i = 0; i < threads.size(); ++i) {
    threads[i].block = this;
    threads[i].number = i;
    threads[i].index = {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
    warps[i / 32].live |= 1u << i % 32;
  }
}

void* Block::memory(const void* key, std::size_t bytes) {
  const Untracked untracked;
  for (const Piece& piece : pieces_)
    if (piece.key == key) return piece.bytes.get();
  return pieces_.emplace_back(key, poisoned(bytes)).bytes.get();
}

std::string Block::arrive_at_barrier(Thread& thread, const Where& place) {
  if (waiting && !same(where, place))
    return "threads of a block wait at different barriers: " + text(where) + " and " + text(place);
  where = thread.where = place;
  thread.state = State::at_barrier;
  ++waiting;
  leave_barrier_if_all_came();
  return "";
}

void Block::leave_barrier_if_all_came() {
  if (!waiting || waiting + exited < threads.size()) return;
  for (Thread& thread : threads)
    if (thread.state == State::at_barrier) thread.state = State::ready;
  waiting = 0;
  ++barriers;
}

std::string Block::meet(Thread& thread, unsigned mask, std::uint64_t value, const Where& place) {
  const Untracked untracked;
  Warp& warp = warps[thread.warp()];
  const std::string at = " at " + text(place);
  if (!(mask >> thread.lane() & 1))
    return "lane " + std::to_string(thread.lane()) + " is not in its own mask " + hexadecimal(mask) + at;
  if (mask & ~warp.live)
    return "mask " + hexadecimal(mask) +
           " names lanes that have exited or never were: " + hexadecimal(mask & ~warp.live) + at;
  // Meetings of other lanes may be open beside this one.
  auto meeting = std::find_if(warp.open.begin(), warp.open.end(), [&](const Meeting& m) { return m.mask == mask; });
  if (meeting == warp.open.end()) {
    meeting = warp.open.insert(meeting, Meeting{mask, 0, place, {}});
  } else if (!same(meeting->where, place)) {
    return "lanes of a warp wait at different places: " + text(meeting->where) + " and " + text(place);
  }
  meeting->values[thread.lane()] = value;
  meeting->arrived |= 1u << thread.lane();
  thread.where = place;
  thread.state = State::in_warp;
  if (meeting->arrived == mask) {
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      Thread& other = threads[thread.warp() * 32 + lane];
      std::memcpy(other.brought, meeting->values, sizeof other.brought);
      other.state = State::ready;
    }
    warp.open.erase(meeting);
    ++warp.meetings;
  }
  return "";
}

std::string Block::exit(Thread& thread) {
  thread.state = State::exited;
  ++exited;
  Warp& warp = warps[thread.warp()];
  warp.live &= ~(1u << thread.lane());
  for (const Meeting& meeting : warp.open)
    if (meeting.mask >> thread.lane() & 1)
      return "lane " + std::to_string(thread.lane()) + " exited while others wait for it at " + text(meeting.where);
  leave_barrier_if_all_came();
  return "";
}

}  // namespace cuda_host
