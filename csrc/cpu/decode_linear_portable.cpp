// decode_linear for any machine; see decode_linear_tile.h.
#include "cpu/decode_linear.h"

#include <algorithm>
#include <cstring>

#include "core/float16.h"

namespace steer {
namespace {
#include "cpu/simd_portable.h"

#include "cpu/decode_linear_tile.h"
}  // namespace

DecodeLinearKernels decode_linear_kernels_portable() { 
  return {sizeof(float), widen_of_dtype, multiply_of_dtype};
}

}  // namespace steer
