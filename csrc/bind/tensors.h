// What the bindings of all ops ask of torch's tensors: memory, device, dtype and shape, each checked.
//
// Ops are also reached through torch.ops, past the checks in Python, so whatever a kernel takes for
// granted is checked in this folder; what index tensors hold is the kernels' affair.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/dtype.h"

namespace steer {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Where a tensor's elements lie. Storage that was freed has no address.
template <typename Pointer>
Pointer checked_address(const char* name, const Tensor& tensor, Pointer data) {
  if (data == nullptr && tensor.numel() != 0)
    throw std::invalid_argument(std::string(name) + " has no memory: its storage was freed");
  return data;
}

inline const void* readable(const char* name, const Tensor& tensor) {
  return checked_address(name, tensor, tensor.const_data_ptr());
}

inline void* writable(const char* name, const Tensor& tensor) {
  return checked_address(name, tensor, tensor.mutable_data_ptr());
}

struct DeviceOf {
  bool cuda = false;
  int32_t index = 0;

  DeviceOf() = default;  // the CPU
  explicit DeviceOf(const Tensor& tensor)
      : cuda(tensor.is_cuda()), index(cuda ? tensor.get_device_index() : 0) {}

  void check(const char* name, const Tensor& tensor, const char* like_name) const {
    const bool same = cuda ? tensor.is_cuda() && tensor.get_device_index() == index
                           : tensor.is_cpu();
    STD_TORCH_CHECK(same, name, " must be on the device of ", like_name);
  }
};

inline void check_vector(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size,
                         const DeviceOf& device, const char* like_name) {
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(sizes.size() == 1 && sizes[0] == size, name, " must have shape [", size,
                  "], got ", sizes.size(), " dimension(s) and ", tensor.numel(), " element(s)");
  const ScalarType given = tensor.scalar_type();
  STD_TORCH_CHECK(given == dtype, name, " must be ", torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(given));
  device.check(name, tensor, like_name);
}

// The dtype that a kernel computes on.
inline DType floating_dtype(const char* name, ScalarType given,
                            const char* wanted = "Float, BFloat16 or Half, got ") {
  switch (given) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, name, " must be ", wanted, torch::headeronly::toString(given));
  }
}

// A tensor's shape, fetched once: every question to torch goes through a C function, and a decode
// step asks few bytes to be moved.
struct View4d {
  int64_t sizes[4], strides[4];
  int64_t bytes;  // of an element
  ScalarType dtype;

  View4d(const char* name, const Tensor& tensor, const char* shape)
      : dtype(tensor.scalar_type()) {
    const auto given_sizes = tensor.sizes(), given_strides = tensor.strides();
    STD_TORCH_CHECK(given_sizes.size() == 4, name, " must have shape ", shape, ", got ",
                    given_sizes.size(), " dimension(s)");
    for (int dim = 0; dim < 4; ++dim) {
      sizes[dim] = given_sizes[dim];
      strides[dim] = given_strides[dim];
    }
    STD_TORCH_CHECK(sizes[3] <= 1 || strides[3] == 1, name,
                    " must be contiguous in its last dimension, got stride ", strides[3]);
    bytes = static_cast<int64_t>(tensor.element_size());
  }

  bool empty() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3] == 0; }
  int64_t step(int dim) const { return sizes[dim] > 1 ? strides[dim] * bytes : 0; }
};

// Whether the rows of `x` lie at one distance, each of them contiguous.
inline bool has_plain_rows(const Tensor& x) {
  return x.is_contiguous() || (x.dim() == 2 && x.stride(1) == 1);
}

}  // namespace steer
