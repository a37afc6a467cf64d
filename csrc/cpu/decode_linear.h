// decode_linear on the CPU: entry point, and what the driver shares with the tiles.
#pragma once

#include <cstdint>

#include "core/decode_linear_params.h"
#include "cpu/parallel.h"

namespace steer {

constexpr int64_t kLineBytes = 64;  // of weights: a step of the loop over a row

// The tokens as a kernel reads them: zeros from in_features to a whole step.
struct LinearInput {
  const void* data;
  int64_t stride;  // in elements
};

// What is compiled once per instruction set (kernels.h).
struct DecodeLinearKernels {
  int64_t token_bytes;  // of an element of a staged token; of a float, or of a bfloat16
  // Copies the tokens of params.x to where the memory is zeros already.
  void (*stage)(const DecodeLinearParams&, void* to, int64_t stride);
  // Outputs [begin, end) of all tokens.
  void (*multiply)(const DecodeLinearParams&, LinearInput, int64_t begin, int64_t end);
};

// Fills the output. Shapes and strides must already be checked. Throws std::invalid_argument for a
// bad STEER_CPU_ISA.
void decode_linear_cpu(const DecodeLinearParams& params, const ParallelFor& parallel_for);

}  // namespace steer
