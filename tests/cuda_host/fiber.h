// Threads of execution that one thread of the operating system runs in turns: each has a stack, and goes on where it
// was left. AddressSanitizer and ThreadSanitizer are told of every switch.
#pragma once

#include <cstddef>

namespace cuda_host {

#if defined(CUDA_HOST_THREAD_SANITIZER)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// What happens before `release` at a place is seen after `acquire` at that place.
void release(void* place);
void acquire(void* place);

// While one lives, what its thread allocates and copies is the runtime's own doing, not the CUDA thread's: it races
// with nothing.
class Untracked {
 public:
  Untracked();
  ~Untracked();
};

// Where execution goes on.
class Context {
 public:
  Context();  // of the thread that calls
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Leaves this one, which runs, for another; returns when someone switches back. `last`: no one will.
  void switch_to(Context& other, bool last = false);

 protected:
  struct New {};
  explicit Context(New) {}
  void arrive();

  void* stack_pointer_ = nullptr;
  const void* stack_ = nullptr;  // its lowest address
  std::size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
  void* sanitizer_fiber_ = nullptr;
};

class Fiber : public Context {
 public:
  Fiber();
  ~Fiber();

  // The next switch to it calls run(argument), whose end must be a switch for good.
  void prepare(void (*run)(void*), void* argument);

 private:
  static void begin(Fiber* self);

  void (*run_)(void*) = nullptr;
  void* argument_ = nullptr;
};

}  // namespace cuda_host
