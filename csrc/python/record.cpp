#include "python/record.h"

#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "python/bind.h"

namespace fusedstep::python {
namespace py = pybind11;
namespace {

constexpr std::size_t kMost = 1'000'000;  // records, 96 MB; what comes later is counted alone

struct Call {
  std::int64_t start, end;  // ns
  std::uint64_t thread;     // as threading.get_ident() has it
  const char* method;
  std::int64_t n[7];
  std::uint32_t options;
  std::uint16_t threads;
  Kind kind;
  std::uint8_t dtype;  // a Dtype, or on a GPU a Format
};

// A call as NumPy sees it.
struct Row {
  std::int64_t start, end;
  std::uint64_t thread;
  std::int64_t n[7];
  std::uint32_t options;
  std::int32_t method;  // which name
  std::uint16_t threads;
  std::uint8_t kind, dtype;
};

struct Log {
  std::mutex mutex;
  std::deque<Call> calls;
  std::int64_t dropped = 0;
};
// Threads may outlive the module. Replaced in a forked child, where the lock may be held by a thread that is not there:
// the child records its own calls.
Log* the_log = new Log;
Log& log() { return *the_log; }
void forget_log() { the_log = new Log; }
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, forget_log);

std::int64_t now() {
  using Nanoseconds = std::chrono::duration<std::int64_t, std::nano>;
  return std::chrono::duration_cast<Nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Whether it is kept.
bool append(const Call& call) {
  Log& to = log();
  const std::lock_guard<std::mutex> lock(to.mutex);
  if (open_profiles.load(std::memory_order_relaxed) == 0) return false;  // the last was closed meanwhile
  if (to.calls.size() < kMost) {
    to.calls.push_back(call);
    return true;
  }
  ++to.dropped;
  return false;
}

// Opens a profile; returns how many records there are before it, and how many were dropped.
py::tuple open() {
  Log& of = log();
  const std::lock_guard<std::mutex> lock(of.mutex);
  open_profiles.fetch_add(1);
  return py::make_tuple(of.calls.size(), of.dropped);
}

// Closes one; with the last the records go.
void close() {
  Log& of = log();
  const std::lock_guard<std::mutex> lock(of.mutex);
  if (open_profiles.fetch_sub(1) == 1) {
    std::deque<Call>().swap(of.calls);
    of.dropped = 0;
  }
}

// The records from the i-th on, the names that they number, and how many were dropped in all.
py::tuple records(std::size_t first) {
  std::vector<Call> calls;
  std::int64_t dropped;
  {
    Log& of = log();
    const std::lock_guard<std::mutex> lock(of.mutex);
    calls.assign(of.calls.begin() + std::ptrdiff_t(std::min(first, of.calls.size())), of.calls.end());
    dropped = of.dropped;
  }
  py::array_t<Row> rows(Py_ssize_t(calls.size()));
  py::list names;
  std::unordered_map<const char*, std::int32_t> numbers;
  Row* row = rows.mutable_data();
  for (const Call& call : calls) {
    const auto [at, is_new] = numbers.try_emplace(call.method, std::int32_t(numbers.size()));
    if (is_new) names.append(call.method);
    *row = {call.start, call.end, call.thread, {}, call.options, at->second, call.threads, std::uint8_t(call.kind),
            call.dtype};
    std::copy(std::begin(call.n), std::end(call.n), row->n);
    ++row;
  }
  return py::make_tuple(rows, names, dropped);
}

Call made_by_python(const std::string& kind, const std::string& method, const std::vector<std::int64_t>& n) {
  const auto* const found = std::find(std::begin(kKindNames), std::end(kKindNames), kind);
  Call call{.start = 0,
            .end = 0,
            .thread = PyThread_get_thread_ident(),
            .method = kept_name(method),
            .n = {},
            .options = 0,
            .threads = 1,
            .kind = Kind(found - std::begin(kKindNames)),
            .dtype = 0};
  if (found == std::end(kKindNames) || n.size() > std::size(call.n)) throw py::key_error("no such record: " + kind);
  std::copy(n.begin(), n.end(), call.n);
  return call;
}

// Of a range or a product.
void record(const std::string& kind, const std::string& method, std::int64_t start, std::int64_t end,
            const std::vector<std::int64_t>& n, bool wide) {
  Call call = made_by_python(kind, method, n);
  call.start = start;
  call.end = end;
  call.dtype = std::uint8_t(wide ? Dtype::f64 : Dtype::f32);
  append(call);
}

// Of a call on a GPU, by its number and its dtype's; whether it is kept.
bool record_on_gpu(const std::string& kind, const std::string& method, std::uint8_t dtype, std::uint32_t options,
                   const std::vector<std::int64_t>& n, std::int64_t number) {
  Call call = made_by_python(kind, method, n);
  call.start = call.end = number;
  call.options = options;
  call.threads = 0;
  call.dtype = dtype;
  return append(call);
}

}  // namespace

const char* kept_name(const std::string& name) {
  static std::mutex mutex;
  static auto* const names = new std::set<std::string>;
  const std::lock_guard<std::mutex> lock(mutex);
  return names->insert(name).first->c_str();
}

void Recording::begin() {
  largest_team();
  start_ = now();
}

void Recording::add(Kind kind, const char* method, Dtype dtype, std::uint32_t options,
                    std::initializer_list<std::int64_t> n) const {
  Call call{.start = start_,
            .end = now(),
            .thread = PyThread_get_thread_ident(),
            .method = method,
            .n = {},
            .options = options,
            .threads = std::uint16_t(std::max(largest_team(), 1)),
            .kind = kind,
            .dtype = std::uint8_t(dtype)};
  std::copy(n.begin(), n.end(), call.n);
  append(call);
}

void bind_record(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(Row, start, end, thread, n, options, method, threads, kind, dtype);
  module.attr("record_kinds") =
      py::tuple(py::cast(std::vector<std::string>(std::begin(kKindNames), std::end(kKindNames))));
  module.def("open_record", &open);
  module.def("close_record", &close);
  module.def("records", &records);
  module.def("record", &record);
  module.def("record_on_gpu", &record_on_gpu);
  module.attr("open_profiles") = reinterpret_cast<std::uintptr_t>(&open_profiles);
  module.def("profiling", [] { return open_profiles.load(std::memory_order_relaxed) > 0; });
  module.def("now", &now);
}

}  // namespace fusedstep::python
