// Counters of rows on a CUDA device: one allocation a device, made and zeroed at the first call.
#include "cuda/counters.h"

#include <cuda_runtime.h>

#include <map>
#include <mutex>

#include "core/counter_slots.h"
#include "cuda/status.h"

namespace steer {
namespace {

constexpr int64_t kKept = int64_t{1} << 20;  // 4 MB: 16 thousand captured calls of 64 rows

struct Kept {
  CounterSlots slots{kKept};
  int* counters = nullptr;
};

// Null where the memory cannot be had; asked for once.
int* zeroed(int64_t count) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, count * sizeof(int)) != cudaSuccess ||
      cudaMemset(memory, 0, count * sizeof(int)) != cudaSuccess ||
      cudaDeviceSynchronize() != cudaSuccess) {  // streams do not wait for the default one
    cudaGetLastError();                          // no later call is to be blamed
    return nullptr;
  }
  return static_cast<int*>(memory);
}

}  // namespace

int* kept_counters(int device, void* stream, int64_t count) {
  static std::mutex mutex;
  static auto& devices = *new std::map<int, Kept>;  // never destroyed: the driver may go first
  const std::lock_guard<std::mutex> lock(mutex);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const auto on = static_cast<cudaStream_t>(stream);
  if (cudaStreamIsCapturing(on, &status) != cudaSuccess) return nullptr;
  const bool captured = status != cudaStreamCaptureStatusNone;
  const auto known = devices.find(device);
  if (captured && known == devices.end()) return nullptr;  // nothing is allocated in a capture
  Kept& kept = devices[device];
  if (known == devices.end()) kept.counters = zeroed(kKept);
  if (kept.counters == nullptr) return nullptr;
  const auto first = captured ? kept.slots.fresh(count) : kept.slots.of_stream(stream, count);
  return first.has_value() ? kept.counters + *first : nullptr;
}

const char* zero_counters(int* counters, int64_t count, void* stream) {
  return fault_of(cudaMemsetAsync(counters, 0, count * sizeof(int), static_cast<cudaStream_t>(stream)));
}

}  // namespace steer
