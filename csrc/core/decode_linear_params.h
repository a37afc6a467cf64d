// Arguments of decode_linear as plain pointers.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace steer {

struct DecodeLinearParams {
  const void* x = nullptr;       // [tokens, in], last dimension contiguous
  const void* weight = nullptr;  // [out, in], likewise
  const void* bias = nullptr;    // [out], or none
  void* out = nullptr;           // [tokens, out], contiguous
  DType dtype = DType::kFloat32;  // of all four
  int64_t tokens = 0;
  int64_t in_features = 0, out_features = 0;
  int64_t x_stride = 0, weight_stride = 0, bias_stride = 1;  // in elements

  int64_t element_bytes() const { return dtype == DType::kFloat32 ? 4 : 2; }
};

}  // namespace steer
