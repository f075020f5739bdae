// The launchers of cuda/device.h as C functions, for ctypes. Each returns its error, or null.
#include <cstddef>
#include <exception>
#include <string>

#include "cuda/device.h"

using namespace fusedstep::cuda;

namespace {

template <class F>
const char* guarded(F f) {
  static thread_local std::string message;
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

int rule_count() { return int(update_rules().size()); }
const RuleInfo* rule_info(int rule) { return &update_rules()[std::size_t(rule)]; }

const char* launch_square_sums(int format, const DeviceTensor* tensors, std::size_t count, bool again,
                               const Report* report, BlockSum* sums, Stream stream) {
  return guarded([&] { square_sums(Format(format), {tensors, count}, again, report, sums, stream); });
}
const char* launch_finish_norm(const BlockSum* sums, std::size_t blocks, double max_norm, double grad_scale, bool again,
                               Report* report, Stream stream) {
  return guarded([&] { finish_norm(sums, blocks, max_norm, grad_scale, again, report, stream); });
}
const char* launch_prepare(int rule, int format, const double* hyper, const std::size_t* numbers, std::size_t count,
                           double* steps, void* rules, const Report* report, Stream stream) {
  return guarded([&] { prepare(rule, Format(format), hyper, {numbers, count}, steps, rules, report, stream); });
}
const char* launch_update(int rule, int format, const DeviceTensor* tensors, std::size_t count, const void* rules,
                          double sign, double multiplier, const Report* report, bool zero, Stream stream) {
  return guarded(
      [&] { update(rule, Format(format), {tensors, count}, rules, sign, multiplier, report, zero, stream); });
}

}  // extern "C"
