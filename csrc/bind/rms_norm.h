// From torch tensors to the parameters of rms_norm.
#pragma once

#include "bind/tensors.h"
#include "core/rms_norm_params.h"

namespace steer {

// Everything but the output. `x` has its last dimension contiguous, and rows at one distance.
inline RmsNormParams rms_norm_params(const Tensor& x, const Tensor& weight, double epsilon) {
  RmsNormParams params;
  params.dtype = floating_dtype("x", x.scalar_type());
  DeviceOf(x).check("weight", weight, "x");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight must have the dtype of x, ",
                  torch::headeronly::toString(x.scalar_type()), ", got ",
                  torch::headeronly::toString(weight.scalar_type()));
  STD_TORCH_CHECK(weight.dim() == 1 && weight.size(0) >= 1 && weight.is_contiguous(),
                  "weight must be contiguous, of one dimension and not empty");
  params.size = weight.size(0);
  STD_TORCH_CHECK(x.dim() >= 1 && x.size(x.dim() - 1) == params.size,
                  "x must have as many elements as weight, ", params.size,
                  ", in its last dimension, got ", x.dim() >= 1 ? x.size(x.dim() - 1) : 0);
  STD_TORCH_CHECK(epsilon >= 0.0, "epsilon must be at least 0, got ", epsilon);
  params.epsilon = epsilon;
  params.rows = x.numel() / params.size;
  params.x = readable("x", x);
  params.x_stride = x.dim() == 2 ? x.stride(0) : params.size;
  params.weight = readable("weight", weight);
  return params;
}

}  // namespace steer
