// Two CUDA devices without a card: the bindings of csrc/bind/cuda.cpp over torch's own C interface, in
// which a few functions are replaced. Tensors are the CPU's, and each is said to be of a device; kernels are
// not launched, but note the device and the stream that they would have run on.
//
// What is tested: an operator runs on the device of its first tensor and on that device's current stream,
// whatever the current device is; outputs, scratch and counters are of that device; another tensor of
// another device is refused; the current device is afterwards what it was.
#include "bind/cuda.cpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

int current = 0;                          // device
std::map<AtenTensorHandle, int> placed;   // device of each tensor
std::vector<int> made;                    // devices of tensors that the operators have made
struct Launch {
  std::string name;
  int device, asked;  // the current one, and the one that scratch or counters were asked for
  void* stream;
};
std::vector<Launch> launches;
int counters_of = -1, processors_of = -1;
int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

void* stream_of(int device) { return reinterpret_cast<void*>(static_cast<intptr_t>(0x1000 + device)); }

const char* launched(const char* name, void* stream) {
  launches.push_back({name, current, counters_of, stream});
  return nullptr;
}

}  // namespace

// Python itself is not linked: the module is never made.
extern "C" PyObject* Py_BuildValue(const char*, ...) { return nullptr; }
extern "C" PyObject* PyModule_Create2(PyModuleDef*, int) { return nullptr; }

struct Guard {
  int before;
};

extern "C" {

AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  *type = aoti_torch_device_type_cuda();
  return 0;
}

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* index) {
  *index = placed.at(tensor);
  return 0;
}

AOTITorchError aoti_torch_create_device_guard(int32_t device, DeviceGuardHandle* guard) {
  *guard = reinterpret_cast<DeviceGuardHandle>(new Guard{current});
#ifndef WITHOUT_GUARDS  // with it the test has to fail
  current = device;
#endif
  return 0;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard) {
  current = reinterpret_cast<Guard*>(guard)->before;
  delete reinterpret_cast<Guard*>(guard);
  return 0;
}

AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t, int32_t device,
                                        AtenTensorHandle* tensor) {
  using Empty = AOTITorchError (*)(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t,
                                   AtenTensorHandle*);
  static const auto empty = reinterpret_cast<Empty>(dlsym(RTLD_NEXT, "aoti_torch_empty_strided"));
  const auto status = empty(dims, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, tensor);
  placed[*tensor] = device;
  made.push_back(device);
  return status;
}

}  // extern "C"

namespace steer {

const char* kv_append_cuda(const KvAppendParams&, void* stream) { return launched("kv_append_", stream); }
const char* step_update_cuda(const StepUpdateParams&, void* stream) {
  return launched("step_update_", stream);
}
const char* rows_cuda(const RowsParams&, DType, int, void* stream) { return launched("rows", stream); }
int* kept_counters(int device, void* stream, int64_t) {
  counters_of = device;
  expect(stream == stream_of(device), "counters are asked for on their device's stream");
  return nullptr;
}
const char* zero_counters(int*, int64_t, void* stream) { return launched("zeroing", stream); }
int multiprocessors(int device) {
  processors_of = device;
  return 132;
}
CudaBuildInfo cuda_build_info() { return {}; }

}  // namespace steer

namespace {

using torch::headeronly::ScalarType;

Tensor on(int device, std::vector<int64_t> sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0; stride *= sizes[dim]) strides[dim] = stride;
  steer::DeviceOf place;
  place.cuda = true, place.index = device;
  return steer::allocate(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, place);
}

// Each operator; every tensor but the first is on `other`.
std::map<std::string, std::function<void(int, int)>> operators() {
  const auto floats = ScalarType::Float;
  const auto longs = ScalarType::Long;
  return {
      {"logit_stats", [=](int first, int) { logit_stats(on(first, {3, 50}, floats), 4, std::nullopt); }},
      {"sample_logits",
       [=](int first, int other) {
         sample_rows(on(first, {3, 50}, floats), on(other, {3}, floats), 0.7, 5, 0.9, 0.0, 4, std::nullopt);
       }},
      {"kv_append_",
       [=](int first, int other) {
         kv_append(on(first, {4, 2, 8, 6}, floats), on(first, {4, 2, 8, 6}, floats),
                   on(first, {3, 2, 1, 6}, floats), on(other, {3, 2, 1, 6}, floats), on(first, {3}, longs),
                   on(other, {3}, longs), on(first, {3}, longs));
       }},
      {"step_update_",
       [=](int first, int other) {
         const auto counts = [&] { return on(first, {3}, longs); };
         step_update(on(first, {3, 16}, longs), counts(), counts(), on(first, {3}, ScalarType::Double),
                     counts(), on(first, {3}, ScalarType::Byte), counts(), on(other, {3}, longs),
                     on(first, {3}, floats), on(first, {50}, ScalarType::Byte), std::nullopt, 64);
       }},
  };
}

void on_its_own_device(const std::string& name, const std::function<void(int, int)>& run, int device) {
  const std::string what = name + " on device " + std::to_string(device);
  launches.clear(), made.clear(), placed.clear();
  counters_of = processors_of = -1;
  run(device, device);
  expect(!launches.empty(), what + " launches");
  for (const Launch& launch : launches) {
    expect(launch.device == device, what + ": " + launch.name + " is launched there");
    expect(launch.stream == stream_of(device), what + ": " + launch.name + " is on its stream");
  }
  for (int place : made) expect(place == device, what + ": what it makes is there");
  if (counters_of >= 0) expect(counters_of == device, what + ": its counters are there");
  if (processors_of >= 0) expect(processors_of == device, what + ": the plan is for that device");
}

void of_two_devices(const std::string& name, const std::function<void(int, int)>& run) {
  launches.clear();
  try {
    run(1, 0);
    expect(false, name + " refuses tensors of two devices");
  } catch (const std::exception& error) {
    const std::string said = error.what();
    expect(said.find("must be on the device of") != std::string::npos, name + " says so: " + said);
  }
  expect(launches.empty(), name + " launches nothing then");
}

}  // namespace

int main() {
  for (const auto& [name, run] : operators()) {
    for (int before : {0, 1})
      for (int device : {0, 1, 2}) {
        current = before;
        on_its_own_device(name, run, device);
        expect(current == before, name + " leaves the current device as it was");
      }
    if (name != "logit_stats") of_two_devices(name, run);
  }
  std::printf("%d failed\n", failures);
  std::fflush(stdout);
  std::_Exit(failures == 0 ? 0 : 1);  // nothing of torch is to be torn down without its CUDA part
}
