#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(CUDA_HOST_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(CUDA_HOST_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace cuda_host {
namespace {

constexpr std::size_t kStackBytes = 128 * 1024, kGuardBytes = 4096;

// Saves what a function must preserve, exchanges the stacks, and returns on the other one.
extern "C" void cuda_host_switch(void** from, void* to);
asm(R"(
.text
.type cuda_host_switch, @function
cuda_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
# The first switch to a fiber comes here, its argument in r12 and its function in r13.
.type cuda_host_begin, @function
cuda_host_begin:
  movq %r12, %rdi
  callq *%r13
  ud2
)");
extern "C" void cuda_host_begin();

thread_local Context* left_last = nullptr;  // by the thread's most recent switch

}  // namespace

void release([[maybe_unused]] void* place) {
#if defined(CUDA_HOST_THREAD_SANITIZER)
  __tsan_release(place);
#endif
}
void acquire([[maybe_unused]] void* place) {
#if defined(CUDA_HOST_THREAD_SANITIZER)
  __tsan_acquire(place);
#endif
}

Untracked::Untracked() {
#if defined(CUDA_HOST_THREAD_SANITIZER)
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
}
Untracked::~Untracked() {
#if defined(CUDA_HOST_THREAD_SANITIZER)
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#endif
}

Context::Context() {
#if defined(CUDA_HOST_THREAD_SANITIZER)
  sanitizer_fiber_ = __tsan_get_current_fiber();
#endif
}

void Context::switch_to(Context& other, [[maybe_unused]] bool last) {
#if defined(CUDA_HOST_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, other.stack_, other.stack_bytes_);
#elif defined(CUDA_HOST_THREAD_SANITIZER)
  __tsan_switch_to_fiber(other.sanitizer_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
  left_last = this;
  cuda_host_switch(&stack_pointer_, other.stack_pointer_);
  arrive();
}

void Context::arrive() {
#if defined(CUDA_HOST_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(fake_stack_, &left_last->stack_, &left_last->stack_bytes_);
#endif
}

Fiber::Fiber() : Context(New{}) {
  void* const memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  stack_ = memory;
  stack_bytes_ = kStackBytes;
#if defined(CUDA_HOST_THREAD_SANITIZER)
  sanitizer_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(CUDA_HOST_THREAD_SANITIZER)
  __tsan_destroy_fiber(sanitizer_fiber_);
#endif
  munmap(const_cast<void*>(stack_), stack_bytes_);
}

void Fiber::begin(Fiber* self) {
  self->arrive();
  self->run_(self->argument_);
}

void Fiber::prepare(void (*run)(void*), void* argument) {
  run_ = run;
  argument_ = argument;
  fake_stack_ = nullptr;
  // r15, r14, r13, r12, rbx, rbp, then where `ret` goes; the stack is aligned to 16 bytes after it.
  auto** const top = reinterpret_cast<void**>(static_cast<char*>(const_cast<void*>(stack_)) + stack_bytes_ - 16);
  void** const frame = top - 7;
  for (void** slot = frame; slot < top; ++slot) *slot = nullptr;
  frame[2] = reinterpret_cast<void*>(&Fiber::begin);
  frame[3] = this;
  frame[6] = reinterpret_cast<void*>(&cuda_host_begin);
  stack_pointer_ = frame;
}

}  // namespace cuda_host
