// The update and its preparation, instantiated for every rule and format, and what launches them.
#include <algorithm>
#include <array>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>

#include "cuda/device.h"
#include "cuda/launch.cuh"
#include "cuda/multi_tensor.cuh"
#include "optim/rules.h"

namespace fusedstep::ISA {
namespace {

// Rows for Rules::table. (Of a lambda nvcc warns that it cannot deduce the rule.)
struct Info {
  template <template <class> class Rule>
  constexpr RuleInfo operator()() const {
    return {.name = Rule<float>::name, .hyper = Rule<float>::hyper, .states = Rule<float>::states};
  }
};
constexpr auto infos = Rules::table(Info{});

struct UpdateCall {
  std::span<const DeviceTensor> tensors;
  const void* rules;
  double sign, multiplier;
  const Report* report;
  bool zero;
  Stream stream;
};

template <template <class> class Rule, Format format, bool has_master>
void launch_update(const UpdateCall& call) {
  using Own = Update<Rule, format, has_master>;
  in_tables<Own::pointers>(call.tensors, kChunk, Own::arrays, [&](const auto& table) {
    launch("update", update_kernel<Rule, format, has_master>,
           {.blocks = table.parts(), .threads = kUpdateThreads, .stream = call.stream}, table, call.rules, call.sign,
           call.multiplier, call.report, call.zero);
  });
}

using LaunchUpdate = void (*)(const UpdateCall&);
struct Updates {
  template <template <class> class Rule>
  constexpr std::array<std::array<LaunchUpdate, 2>, 4> operator()() const {  // by format and master copy
    return {{{launch_update<Rule, Format::f32, false>, nullptr},
             {launch_update<Rule, Format::f64, false>, nullptr},
             {launch_update<Rule, Format::f16, false>, launch_update<Rule, Format::f16, true>},
             {launch_update<Rule, Format::bf16, false>, launch_update<Rule, Format::bf16, true>}}};
  }
};
constexpr auto updates = Rules::table(Updates{});

struct Preparations {
  template <template <class> class Rule>
  constexpr auto operator()() const {
    return std::array{prepare_kernel<Rule, float>, prepare_kernel<Rule, double>};
  }
};
constexpr auto preparations = Rules::table(Preparations{});

}  // namespace

std::span<const RuleInfo> update_rules() { return infos; }

void prepare(int rule, Format format, const double* hyper, std::span<const std::size_t> numbers, double* steps,
             void* rules, const Report* report, Stream stream) {
  Numbers table;
  while (!numbers.empty()) {
    table.count = unsigned(std::min(std::size(table.of), numbers.size()));
    std::copy_n(numbers.begin(), table.count, table.of);
    launch(
        "prepare", preparations[std::size_t(rule)][format == Format::f64],
        {.blocks = (table.count + kPrepareThreads - 1) / kPrepareThreads, .threads = kPrepareThreads, .stream = stream},
        table, hyper, steps, rules, report);
    numbers = numbers.subspan(table.count);
  }
}

void update(int rule, Format format, std::span<const DeviceTensor> tensors, const void* rules, double sign,
            double multiplier, const Report* report, bool zero, Stream stream) {
  const auto& launches = updates[std::size_t(rule)][std::size_t(format)];
  // Tensors with and without a master copy have kernels of their own: runs of either.
  while (!tensors.empty()) {
    const bool has_master = tensors[0].master;
    const auto other = [&](const DeviceTensor& tensor) { return (tensor.master != nullptr) != has_master; };
    const auto size = std::size_t(std::find_if(tensors.begin(), tensors.end(), other) - tensors.begin());
    if (!launches[has_master]) throw std::invalid_argument("a master copy is for half formats alone");
    launches[has_master]({tensors.first(size), rules, sign, multiplier, report, zero, stream});
    tensors = tensors.subspan(size);
  }
}

}  // namespace fusedstep::ISA
