// decode_attention for any machine; see decode_attention_tile.h.
#include "cpu/decode_attention.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "core/float16.h"

namespace steer {
namespace {
#include "cpu/simd_portable.h"
#include "cpu/vec_exp.h"

#include "cpu/decode_attention_rows.h"
#include "cpu/decode_attention_tile.h"
}  // namespace

DecodeAttentionKernels decode_attention_kernels_portable() {
  return {Vec::kLanes, attend_of_dtype, merge_of_dtype};
}

}  // namespace steer
