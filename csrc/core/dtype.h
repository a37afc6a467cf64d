// The dtypes that the kernels read and write; they compute in float.
#pragma once

namespace steer {

enum class DType { kFloat32, kBFloat16, kFloat16 };

}  // namespace steer
