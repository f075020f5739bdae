// Runs the blocks of a launch. A worker, a thread of the operating system, has one block at a time, or, where the
// launch is cooperative, its share of all of them at once; it resumes their threads in turns until each has exited.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <iterator>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "block.h"
#include "cuda_host/launch.h"
#include "launch.h"
#include "settings.h"

constinit thread_local uint3 threadIdx, blockIdx;
constinit thread_local dim3 blockDim, gridDim;

namespace cuda_host {
namespace {

using Clock = std::chrono::steady_clock;

// Ends a CUDA thread of a launch that has failed.
struct Cancelled {};

struct Launch {
  dim3 grid, shape;
  std::size_t dynamic_bytes;
  bool cooperative;
  const std::function<void()>& thread;

  std::atomic<unsigned> next = 0;  // block
  std::atomic<bool> failed = false;
  std::string error = {};
  std::mutex mutex = {};
  std::vector<std::unique_ptr<Block>> blocks = {};  // kept to the end: another block must not get their memory
  char end = 0;                                     // where threads release what they wrote

  unsigned count() const { return grid.x * grid.y * grid.z; }

  void fail(const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failed) error = what;
    failed = true;
  }
};

// Fibers that wait for work, of this thread: making one costs some microseconds.
thread_local std::vector<std::unique_ptr<Fiber>> idle;

class Worker {
 public:
  Worker(Launch& launch, unsigned number, unsigned workers)
      : launch_(launch), number_(number), workers_(workers), random_(settings.seed * 7919 + number) {}
  ~Worker() { std::move(used_.begin(), used_.end(), std::back_inserter(idle)); }

  void run() {
    if (launch_.cooperative) {
      std::vector<Block*> resident;
      for (unsigned i = number_; i < launch_.count(); i += workers_) resident.push_back(&make(i));
      run(resident);
    } else {
      for (unsigned i; !launch_.failed && (i = launch_.next++) < launch_.count();) run({&make(i)});
    }
  }

  void resume(Thread& thread);
  void wait() {  // of the current thread
    Thread& thread = *current_;
    thread.fiber->switch_to(context_);
    if (thread.cancelled) throw Cancelled{};
  }
  [[noreturn]] void fail(const std::string& what) {
    launch_.fail(describe(*current_) + ": " + what);
    throw Cancelled{};
  }
  Thread& current() { return *current_; }
  static std::string describe(const Thread& thread) {
    const auto three = [](const uint3& i) {
      return std::to_string(i.x) + (i.y || i.z ? "," + std::to_string(i.y) + "," + std::to_string(i.z) : "");
    };
    return "block " + three(thread.block->index) + ", thread " + three(thread.index);
  }

 private:
  Block& make(unsigned number);
  void run(const std::vector<Block*>& blocks);
  bool run_once(const std::vector<Thread*>& threads, bool& progressed);
  void body();

  Launch& launch_;
  const unsigned number_, workers_;
  std::mt19937 random_;
  Context context_;
  Thread* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> used_;
};

thread_local Worker* worker = nullptr;

std::unique_ptr<Fiber> take_fiber() {
  if (idle.empty()) return std::make_unique<Fiber>();
  auto fiber = std::move(idle.back());
  idle.pop_back();
  return fiber;
}

Block& Worker::make(unsigned number) {
  const unsigned i = settings.order == Order::reverse ? launch_.count() - 1 - number : number;
  const dim3& grid = launch_.grid;
  auto block = std::make_unique<Block>(uint3{i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)}, launch_.shape,
                                       launch_.dynamic_bytes);
  release(block.get());  // what its threads find
  const std::lock_guard<std::mutex> lock(launch_.mutex);
  return *launch_.blocks.emplace_back(std::move(block));
}

void Worker::resume(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  blockDim = launch_.shape;
  gridDim = launch_.grid;
  if (!thread.started) {
    thread.started = true;
    thread.fiber = take_fiber();
    thread.fiber->prepare([](void* self) { static_cast<Worker*>(self)->body(); }, this);
  }
  context_.switch_to(*thread.fiber);
  if (thread.state != State::exited) return;
  // To ThreadSanitizer a fiber is one thread, ordered with itself: not for two of a launch.
  (kThreadSanitizer ? used_ : idle).push_back(std::move(thread.fiber));
}

// What a fiber runs: one CUDA thread.
void Worker::body() {
  Thread& thread = *current_;
  acquire(thread.block);
  try {
    launch_.thread();
  } catch (const Cancelled&) {
  } catch (const std::exception& error) {
    launch_.fail(describe(thread) + ": " + error.what());
  }
  if (const std::string error = thread.block->exit(thread); !error.empty() && !launch_.failed)
    launch_.fail(describe(thread) + ": " + error);
  release(&launch_.end);
  thread.fiber->switch_to(context_, true);
}

// One turn for each thread that can go on. False where there was none.
bool Worker::run_once(const std::vector<Thread*>& threads, bool& progressed) {
  bool ran = false;
  for (Thread* const thread : threads) {
    if (thread->state != State::ready) continue;
    ran = true;
    thread->paused = false;
    resume(*thread);
    progressed = progressed || !thread->paused;
    if (launch_.failed) break;
  }
  return ran;
}

void Worker::run(const std::vector<Block*>& blocks) {
  std::vector<Thread*> threads;
  for (Block* const block : blocks)
    for (Thread& thread : block->threads) threads.push_back(&thread);
  if (settings.order == Order::reverse) std::reverse(threads.begin(), threads.end());
  auto last_progress = Clock::now();
  const auto exited = [](const Thread* thread) { return thread->state == State::exited; };
  while (!launch_.failed && !std::all_of(threads.begin(), threads.end(), exited)) {
    if (settings.order == Order::random) std::shuffle(threads.begin(), threads.end(), random_);
    bool progressed = false;
    if (!run_once(threads, progressed)) {
      const Thread& stuck = **std::find_if_not(threads.begin(), threads.end(), exited);
      launch_.fail(describe(stuck) + ": waits for ever at " + text(stuck.where));
    } else if (progressed) {
      last_progress = Clock::now();
    } else if (Clock::now() - last_progress > std::chrono::duration<double>(settings.patience)) {
      launch_.fail("no thread got on for " + std::to_string(settings.patience) + " s: some wait for others in a loop");
    } else {
      sched_yield();
    }
  }
  for (Thread* const thread : threads) {
    if (thread->state == State::exited || !thread->started) continue;
    thread->cancelled = true;
    resume(*thread);
  }
}

}  // namespace

void run_grid(const dim3& grid, const dim3& shape, std::size_t dynamic_bytes, bool cooperative,
              const std::function<void()>& thread) {
  Launch launch{
      .grid = grid, .shape = shape, .dynamic_bytes = dynamic_bytes, .cooperative = cooperative, .thread = thread};
  const unsigned workers = std::clamp(unsigned(settings.threads), 1u, std::max(launch.count(), 1u));
  const auto work = [&](unsigned number) {
    Worker own(launch, number, workers);
    worker = &own;
    own.run();
    worker = nullptr;
  };
  std::vector<std::thread> others;
  for (unsigned i = 1; i < workers; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  acquire(&launch.end);
  if (launch.failed) throw std::runtime_error(launch.error);
}

// What a CUDA thread calls.

void block_barrier(const Where& where) {
  Thread& thread = worker->current();
  Block& block = *thread.block;
  char* const place = &block.places[block.barriers & 1];
  release(place);
  if (const std::string error = block.arrive_at_barrier(thread, where); !error.empty()) worker->fail(error);
  worker->wait();
  acquire(place);
}

const std::uint64_t* meet(unsigned mask, std::uint64_t value, bool synchronizing, const Where& where) {
  Thread& thread = worker->current();
  Warp& warp = thread.block->warps[thread.warp()];
  char* const place = &warp.places[warp.meetings & 1];
  if (synchronizing) release(place);
  if (const std::string error = thread.block->meet(thread, mask, value, where); !error.empty()) worker->fail(error);
  if (thread.state != State::ready) worker->wait();
  if (synchronizing) acquire(place);
  return thread.brought;
}

void pause() {
  if (!worker) return;  // on the host
  worker->current().paused = true;
  worker->wait();
}

void fence() { worker->current().fenced = true; }
bool take_fence() { return std::exchange(worker->current().fenced, false); }
unsigned lane() { return worker->current().lane(); }
void* block_memory(const void* key, std::size_t bytes) { return worker->current().block->memory(key, bytes); }
void* dynamic_memory() { return worker->current().block->dynamic(); }

}  // namespace cuda_host
