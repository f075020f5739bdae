// The runtime's functions, and the settings.
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda_host/launch.h"
#include "launch.h"
#include "settings.h"

namespace cuda_host {

Settings settings;

namespace {

// Those of compute capability 9.0.
constexpr unsigned kMaxThreads = 1024, kMaxGrid = 0x7FFFFFFF, kMaxGridYZ = 65535;
constexpr std::size_t kDynamicBytes = 48 * 1024, kMaxDynamicBytes = 227 * 1024;

std::mutex mutex;
std::vector<cuda_host_record> records;
std::map<const void*, std::size_t> allowed;  // dynamic bytes of kernels that asked for more
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_gpu = 0;

struct Place {
  const char* begin;
  std::uint64_t bytes;
  int gpu;
};
std::vector<Place> places;  // the latest last

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
cudaError_t present(int* value, int what) {
  if (!settings.driver) return remember(cudaErrorInsufficientDriver);
  *value = what;
  return cudaSuccess;
}

bool is_cooperative(const cudaLaunchConfig_t& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == cudaLaunchAttributeCooperative && config.attrs[i].val.cooperative) return true;
  return false;
}

cudaError_t check(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const auto product = [](const dim3& shape) { return std::uint64_t(shape.x) * shape.y * shape.z; };
  if (!settings.driver) return cudaErrorInsufficientDriver;
  if (!product(grid) || !product(block) || product(block) > kMaxThreads || block.z > 64 || grid.x > kMaxGrid ||
      grid.y > kMaxGridYZ || grid.z > kMaxGridYZ)
    return cudaErrorInvalidConfiguration;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto own = allowed.find(kernel);
  if (config.dynamicSmemBytes > (own == allowed.end() ? kDynamicBytes : own->second)) return cudaErrorInvalidValue;
  if (is_cooperative(config) && product(grid) > std::uint64_t(settings.multiprocessors))
    return cudaErrorCooperativeLaunchTooLarge;
  records.push_back({.stream = reinterpret_cast<std::uint64_t>(config.stream),
                     .blocks = std::uint32_t(product(grid)),
                     .threads = std::uint32_t(product(block)),
                     .dynamic_bytes = config.dynamicSmemBytes,
                     .cooperative = is_cooperative(config),
                     .gpu = std::uint32_t(current_gpu)});
  return cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const cudaError_t error = remember(check(config, kernel));
  if (error == cudaSuccess)
    run_grid(config.gridDim, config.blockDim, config.dynamicSmemBytes, is_cooperative(config), thread);
  return error;
}

cudaError_t allow_dynamic_memory(const void* kernel, std::size_t bytes) {
  if (!settings.driver) return remember(cudaErrorInsufficientDriver);
  if (bytes > kMaxDynamicBytes) return remember(cudaErrorInvalidValue);
  const std::lock_guard<std::mutex> lock(mutex);
  allowed[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t occupancy(int* blocks, int threads, std::size_t dynamic_bytes) {
  return present(blocks, threads <= int(kMaxThreads) && dynamic_bytes <= kMaxDynamicBytes);
}

}  // namespace cuda_host

using cuda_host::present;
using cuda_host::settings;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorCooperativeLaunchTooLarge:
      return "cudaErrorCooperativeLaunchTooLarge";
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
                                              : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() { return std::exchange(cuda_host::last_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) { return present(count, settings.gpus); }
cudaError_t cudaGetDevice(int* device) { return present(device, cuda_host::current_gpu); }
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= settings.gpus) return cuda_host::remember(cudaErrorInvalidDevice);
  return present(&cuda_host::current_gpu, device);
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings.driver ? 13000 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      return present(value, settings.multiprocessors);
    case cudaDevAttrComputeCapabilityMajor:
      return present(value, 9);
    case cudaDevAttrComputeCapabilityMinor:
      return present(value, 0);
    case cudaDevAttrCooperativeLaunch:
      return present(value, 1);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return present(value, int(cuda_host::kMaxDynamicBytes));
  }
  return cuda_host::remember(cudaErrorInvalidValue);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  *attributes = {.type = cudaMemoryTypeDevice, .device = 0, .devicePointer = nullptr, .hostPointer = nullptr};
  const std::lock_guard<std::mutex> lock(cuda_host::mutex);
  for (const auto& place : cuda_host::places)
    if (const auto* at = static_cast<const char*>(memory); at >= place.begin && at < place.begin + place.bytes)
      attributes->device = place.gpu;
  return present(&attributes->device, attributes->device);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = settings.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  int none = 0;
  return present(&none, 0);
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
  if (!settings.driver) return cuda_host::remember(cudaErrorInsufficientDriver);
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

extern "C" {

bool cuda_host_order(const char* order, std::uint32_t seed) {
  using cuda_host::Order;
  const std::pair<const char*, Order> orders[] = {
      {"forward", Order::forward}, {"reverse", Order::reverse}, {"random", Order::random}};
  for (const auto& [name, value] : orders)
    if (std::strcmp(name, order) == 0) {
      settings.order = value;
      settings.seed = seed;
      return true;
    }
  return false;
}
void cuda_host_threads(int threads) { settings.threads = threads; }
void cuda_host_multiprocessors(int count) { settings.multiprocessors = count; }
void cuda_host_gpus(int count) { settings.gpus = count; }
void cuda_host_place(const void* memory, std::uint64_t bytes, int gpu) {
  const std::lock_guard<std::mutex> lock(cuda_host::mutex);
  cuda_host::places.push_back({static_cast<const char*>(memory), bytes, gpu});
}
void cuda_host_capturing(bool capturing) { settings.capturing = capturing; }
void cuda_host_driver(bool present) { settings.driver = present; }
void cuda_host_patience(double seconds) { settings.patience = seconds; }

std::uint64_t cuda_host_records(cuda_host_record* copies, std::uint64_t room) {
  const std::lock_guard<std::mutex> lock(cuda_host::mutex);
  const std::uint64_t count = cuda_host::records.size();
  for (std::uint64_t i = 0; i < count && i < room; ++i) copies[i] = cuda_host::records[i];
  cuda_host::records.clear();
  return count;
}

}  // extern "C"
