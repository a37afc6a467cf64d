// The kernels for any machine; see tiles.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "core/float16.h"
#include "cpu/kernels.h"

namespace steer {
namespace {
#include "cpu/simd_portable.h"
#include "cpu/vec_exp.h"

#include "cpu/tiles.h"
}  // namespace

const Kernels& kernels_portable() {
  static constexpr Kernels kernels = kernels_of(Isa::kPortable);
  return kernels;
}

}  // namespace steer
