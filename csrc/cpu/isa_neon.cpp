// The kernels for AArch64; see tiles.h.
//
// Advanced SIMD belongs to the base of AArch64, so no target has to be switched on here.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "core/float16.h"
#include "cpu/kernels.h"

#if STEER_NEON_KERNELS

#include <arm_neon.h>

namespace steer {
namespace {
#include "cpu/simd_neon.h"
#include "cpu/vec_exp.h"

#include "cpu/tiles.h"
}  // namespace

const Kernels& kernels_neon() {
  static constexpr Kernels kernels = kernels_of(Isa::kNeon);
  return kernels;
}

}  // namespace steer

#endif  // STEER_NEON_KERNELS
