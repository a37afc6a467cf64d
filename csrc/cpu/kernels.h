// What is compiled once per instruction set: a table of functions for each, and the one in use.
//
// isa_*.cpp compile the same tiles (tiles.h) for one instruction set each. A new op adds its
// functions here, and its tile and its entry there.
#pragma once

#include "cpu/accept_drafts.h"
#include "cpu/decode_attention.h"
#include "cpu/decode_linear.h"
#include "cpu/isa.h"
#include "cpu/logit_stats.h"

namespace steer {

struct Kernels {
  Isa isa;
  LogitStatsKernels logit_stats;  // and sample_logits
  AcceptDraftsKernels accept_drafts;
  DecodeAttentionKernels decode_attention;
  DecodeLinearKernels decode_linear;           // for float32 and float16
  DecodeLinearKernels decode_linear_bfloat16;  // which has instructions of its own
};

const Kernels& kernels_portable();
#if STEER_X86_KERNELS
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512bf16();  // where the processor has them, those of avx512
#endif
#if STEER_NEON_KERNELS
const Kernels& kernels_neon();
#endif

// Those of current_isa(). Throws std::invalid_argument for a bad STEER_CPU_ISA.
const Kernels& current_kernels();

}  // namespace steer
