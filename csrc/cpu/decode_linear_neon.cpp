// decode_linear for AArch64; see decode_linear_tile.h.
//
// Advanced SIMD belongs to the base of AArch64, so no target has to be switched on here.
#include "cpu/decode_linear.h"

#if STEER_NEON_KERNELS

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "core/float16.h"

namespace steer {
namespace {
#include "cpu/simd_neon.h"

#include "cpu/decode_linear_tile.h"
}  // namespace

DecodeLinearKernels decode_linear_kernels_neon() { 
  return {sizeof(float), widen_of_dtype, multiply_of_dtype};
}

}  // namespace steer

#endif  // STEER_NEON_KERNELS
