// Every tile, compiled for one instruction set, and the table that names them.
//
// Included once by each isa_*.cpp, inside an anonymous namespace and after a simd_*.h and a vec_exp*.h:
// nothing compiled for one instruction set can be picked by the linker for another. What the tiles
// use of other headers has to be included before the target is switched on.
#pragma once

#include "cpu/logit_stats_tile.h"
#include "cpu/topk_tile.h"
#include "cpu/sample_logits_tile.h"

#include "cpu/accept_drafts_tile.h"

#include "cpu/decode_attention_rows.h"
#include "cpu/decode_attention_tile.h"

#include "cpu/decode_linear_tile.h"

constexpr DecodeLinearKernels kDecodeLinear{sizeof(float), widen_of_dtype, multiply_of_dtype};

constexpr Kernels kernels_of(Isa isa) {
  return {isa,
          {reduce_tasks_of_dtype, locate_of_dtype},
          {residual_of_tile, locate_residual},
          {Vec::kLanes, attend_of_dtype, merge_of_dtype},
          kDecodeLinear,
          kDecodeLinear};
}
