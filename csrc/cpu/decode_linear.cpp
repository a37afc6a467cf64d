// decode_linear, CPU driver: stage the tokens, split the outputs.
//
// Mathematics: out[t, n] = sum_k x[t, k] weight[n, k] + bias[n], summed in float32.
// Data movement: the weights are read from memory once for up to 120 tokens (decode_linear_tile.h).
// Bytes: out_features * in_features * sizeof(dtype). The tokens stay in the caches: rows too long for
//   the nearest one are multiplied in blocks.
// Arithmetic: a multiply-add for each weight and token. Up to a few tokens a core computes faster
//   than it reads.
// Synchronisation: one parallel loop over outputs. An output's bits depend on its row of weights and
//   its token alone, not on threads, other tokens or other outputs.
#include "cpu/decode_linear.h"

#include <algorithm>
#include <memory>

#include "cpu/kernels.h"

namespace steer {
namespace {

constexpr int64_t kGrainBytes = 256 * 1024;  // about 10 us of reading
constexpr int64_t kPageBytes = 4096;

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

void decode_linear_cpu(const DecodeLinearParams& params, const ParallelFor& parallel_for) {
  const Kernels& all = current_kernels();
  const DecodeLinearKernels& kernels =
      params.dtype == DType::kBFloat16 ? all.decode_linear_bfloat16 : all.decode_linear;
  if (params.tokens == 0 || params.out_features == 0) return;
  LinearInput x{params.x, params.x_stride};
  int64_t width = rounded_up(params.in_features, kLineBytes / params.element_bytes());
  // Tokens a multiple of a page apart would all want the same few lines of the nearest cache.
  if (params.tokens > 3 && width * kernels.token_bytes % kPageBytes == 0)
    width += kLineBytes / kernels.token_bytes;
  std::unique_ptr<char[]> staged;
  if (kernels.token_bytes != params.element_bytes() || width != params.in_features) {
    staged.reset(new char[params.tokens * width * kernels.token_bytes]());
    kernels.stage(params, staged.get(), width);
    x = {staged.get(), width};
  }
  const int64_t row_bytes = std::max<int64_t>(1, params.in_features * params.element_bytes());
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / row_bytes);
  const RangeBody body = [&](int64_t begin, int64_t end) {
    kernels.multiply(params, x, begin, end);
  };
  if (params.out_features <= grain) return body(0, params.out_features);
  parallel_for(params.out_features, grain, body);
}

}  // namespace steer
