#include "cpu/multi_tensor.h"

#include <algorithm>
#include <cmath>

#include "core/norm.h"
#include "cpu/threads.h"

namespace fusedstep {
namespace {

constexpr std::size_t kElementsPerThread = 16384;  // about 4 µs of work; less is not worth waking a thread
constexpr std::size_t kLine = 16;                  // floats in a cache line: threads write whole ones

// f(segment, begin, end) for this thread's share of all units, `units` of them in a segment.
template <class Units, class F>
void for_share(const std::vector<Segment>& segments, std::size_t total, std::size_t grain, const Team& team,
               Units units, F f) {
  const auto cut = [&](int part) { return total * std::size_t(part) / std::size_t(team.threads); };
  const std::size_t begin = cut(team.thread), end = cut(team.thread + 1);
  std::size_t offset = 0;
  for (const Segment& segment : segments) {
    const std::size_t n = units(segment);
    if (offset >= end) break;
    // A cut inside a segment moves down to a whole grain; both of its sides see the same cut.
    const auto local = [&](std::size_t at) {
      return at >= offset + n ? n : at <= offset ? 0 : (at - offset) / grain * grain;
    };
    if (const std::size_t first = local(begin), last = local(end); first < last) f(segment, first, last);
    offset += n;
  }
}

int threads_for(std::size_t elements) {
  return int(std::clamp<std::size_t>(elements / kElementsPerThread, 1, std::size_t(num_threads())));
}

std::size_t elements_of(const Segment& segment) { return segment.n; }
std::size_t blocks_of(const Segment& segment) { return (segment.n + kNormBlock - 1) / kNormBlock; }

template <class Units>
std::size_t total_of(const std::vector<Segment>& segments, Units units) {
  std::size_t total = 0;
  for (const Segment& segment : segments) total += units(segment);
  return total;
}

// Σ (scale·g)², in the order of core/norm.h.
struct SquareSum {
  double sum;
  std::ptrdiff_t nonfinite;
};
SquareSum square_sum(const std::vector<Segment>& segments, double scale) {
  const std::size_t blocks = total_of(segments, blocks_of);
  std::vector<double> sums(blocks);
  std::vector<double*> sums_of;
  sums_of.reserve(segments.size());
  std::size_t offset = 0;
  for (const Segment& segment : segments) {
    sums_of.push_back(sums.data() + offset);
    offset += blocks_of(segment);
  }
  parallel(threads_for(total_of(segments, elements_of)), [&](const Team& team) {
    for_share(segments, blocks, 1, team, blocks_of, [&](const Segment& segment, std::size_t begin, std::size_t end) {
      segment.square_sums(segment.tensor.g, segment.n, scale, sums_of[&segment - segments.data()], begin, end);
    });
  });
  double lanes[kNormLanes] = {};
  for (std::size_t block = 0; block < blocks; ++block) lanes[block % kNormLanes] += sums[block];
  for (int half = kNormLanes / 2; half; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  SquareSum result{lanes[0], -1};
  for (std::size_t i = 0; i < segments.size() && result.nonfinite < 0; ++i)
    if (!std::all_of(sums_of[i], sums_of[i] + blocks_of(segments[i]), [](double sum) { return std::isfinite(sum); }))
      result.nonfinite = std::ptrdiff_t(i);
  return result;
}

}  // namespace

void update_all(const std::vector<Segment>& segments, double grad_scale, bool zero) {
  const std::size_t total = total_of(segments, elements_of);
  parallel(threads_for(total), [&](const Team& team) {
    for_share(segments, total, kLine, team, elements_of, [&](const Segment& s, std::size_t begin, std::size_t end) {
      s.step(s.rule, s.sign * grad_scale, zero, s.tensor, begin, end);
    });
  });
}

GradNorm grad_norm(const std::vector<Segment>& segments) {
  SquareSum result = square_sum(segments, 1);
  const double scale = norm_scale(result.sum);
  if (scale != 1) result = square_sum(segments, scale);
  return {std::sqrt(result.sum) / scale, result.nonfinite};
}

}  // namespace fusedstep
