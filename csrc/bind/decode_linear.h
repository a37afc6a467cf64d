// From torch tensors to the parameters of decode_linear.
#pragma once

#include <optional>

#include "bind/tensors.h"
#include "core/decode_linear_params.h"

namespace steer {

// Everything but the output. `x` has its last dimension contiguous, and rows at one distance.
inline DecodeLinearParams decode_linear_params(const Tensor& x, const Tensor& weight,
                                               const std::optional<Tensor>& bias) {
  DecodeLinearParams params;
  params.dtype = floating_dtype("x", x.scalar_type());
  const DeviceOf device(x);
  const auto check_like = [&](const char* name, const Tensor& tensor) {
    device.check(name, tensor, "x");
    STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), name, " must have the dtype of x, ",
                    torch::headeronly::toString(x.scalar_type()), ", got ",
                    torch::headeronly::toString(tensor.scalar_type()));
  };
  check_like("weight", weight);
  STD_TORCH_CHECK(weight.dim() == 2, "weight must have shape [out features, in features], got ",
                  weight.dim(), " dimension(s)");
  params.out_features = weight.size(0);
  params.in_features = weight.size(1);
  STD_TORCH_CHECK(params.in_features >= 1, "weight must have at least one column, got 0");
  STD_TORCH_CHECK(params.in_features == 1 || weight.stride(1) == 1,
                  "weight must be contiguous in its last dimension, got stride ",
                  weight.stride(1));
  STD_TORCH_CHECK(x.dim() >= 1 && x.size(x.dim() - 1) == params.in_features,
                  "x must have the columns of weight, ", params.in_features,
                  ", in its last dimension, got ", x.dim() >= 1 ? x.size(x.dim() - 1) : 0);
  params.tokens = x.numel() / params.in_features;
  params.x = readable("x", x);
  params.x_stride = x.dim() == 2 ? x.stride(0) : params.in_features;
  params.weight = readable("weight", weight);
  params.weight_stride = weight.stride(0);
  if (bias.has_value()) {
    check_like("bias", *bias);
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == params.out_features,
                    "bias must have shape [", params.out_features, "], got ", bias->dim(),
                    " dimension(s) and ", bias->numel(), " element(s)");
    params.bias = readable("bias", *bias);
    params.bias_stride = bias->stride(0);
  }
  return params;
}

}  // namespace steer
