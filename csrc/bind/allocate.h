// New tensors, for the outputs of the operators.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "bind/tensors.h"

// The first says why a call of libtorch failed, and exists in the headers of torch 2.13 and newer.
#ifdef STABLE_TORCH_ERROR_CODE_CHECK
#define STEER_CHECK_CALL(call) STABLE_TORCH_ERROR_CODE_CHECK(call)
#else
#define STEER_CHECK_CALL(call) TORCH_ERROR_CODE_CHECK(call)
#endif

namespace steer {

// A tensor, made past the dispatcher: with six to eight of them a call, `new_empty` takes twice as
// long, and a call is a few microseconds.
inline Tensor allocate(int64_t dims, const int64_t* sizes, const int64_t* strides, ScalarType dtype,
                       const DeviceOf& on = {}) {
  const int32_t code =
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  STEER_CHECK_CALL(aoti_torch_empty_strided(
      dims, sizes, strides, code,
      on.cuda ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(), on.index, &handle));
  return Tensor(handle);
}

// Contiguous, [rows] or [rows, columns].
inline Tensor allocate(int64_t rows, std::optional<int64_t> columns, ScalarType dtype,
                       const DeviceOf& on = {}) {
  const int64_t sizes[2] = {rows, columns.value_or(1)};
  const int64_t strides[2] = {columns.value_or(1), 1};
  return allocate(columns.has_value() ? 2 : 1, sizes, strides, dtype, on);
}

// A new tensor of x's sizes, but for the last dimension.
inline Tensor allocate_like(const Tensor& x, int64_t last) {
  const int64_t dims = x.dim();
  std::vector<int64_t> sizes(dims), strides(dims);
  int64_t stride = 1;
  for (int64_t dim = dims - 1; dim >= 0; --dim) {
    sizes[dim] = dim == dims - 1 ? last : x.size(dim);
    strides[dim] = stride;
    stride *= std::max<int64_t>(1, sizes[dim]);
  }
  return allocate(dims, sizes.data(), strides.data(), x.scalar_type());
}

}  // namespace steer
