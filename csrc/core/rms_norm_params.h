// Arguments of rms_norm as plain pointers.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace steer {

struct RmsNormParams {
  const void* x = nullptr;       // [rows, size], last dimension contiguous
  const void* weight = nullptr;  // [size], contiguous
  void* out = nullptr;           // [rows, size], contiguous
  DType dtype = DType::kFloat32;  // of all three
  int64_t rows = 0, size = 0;
  int64_t x_stride = 0;  // in elements
  double epsilon = 0.0;
};

}  // namespace steer
