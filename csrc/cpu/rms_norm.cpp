// rms_norm on the CPU.
//
// Mathematics: out_i = weight_i * y_i,  y_i = x_i / sqrt(mean_j(x_j^2) + epsilon). Sums and products
//   in float32; y is rounded to the dtype first, as in the models of transformers.
// Data movement: a row twice, from L1 the second time. A decode step has a row or a few, and six
//   operators in place of this one take longer to call than to run; so four lanes that every
//   processor has will do.
// Synchronisation: one parallel loop over rows; a row's bits depend on nothing else.
#include "cpu/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/float16.h"

namespace steer {
namespace {
#include "cpu/simd_portable.h"

constexpr int64_t kGrainElements = 32 * 1024;  // some microseconds
constexpr int kSums = 4;

template <class T>
float sum_of_squares(const T* x, int64_t size) {
  constexpr int64_t kStep = kSums * Vec::kLanes;
  Vec sums[kSums];
  for (Vec& sum : sums) sum = Vec::set1(0.0f);
  int64_t i = 0;
  for (; i + kStep <= size; i += kStep)
    for (int j = 0; j < kSums; ++j) {
      const Vec v = Vec::load(x + i + j * Vec::kLanes);
      sums[j] = Vec::fma(v, v, sums[j]);
    }
  float rest = 0.0f;
  for (; i < size; ++i) rest += to_float(x[i]) * to_float(x[i]);
  const Vec lanes = sum_each(sums);
  return (lanes.v[0] + lanes.v[1]) + (lanes.v[2] + lanes.v[3]) + rest;
}

template <class T>
void normalize(const RmsNormParams& params, int64_t begin, int64_t end) {
  const T* weight = static_cast<const T*>(params.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(params.x) + row * params.x_stride;
    T* out = static_cast<T*>(params.out) + row * params.size;
    const float mean = sum_of_squares(x, params.size) / static_cast<float>(params.size);
    const float scale = 1.0f / std::sqrt(mean + static_cast<float>(params.epsilon));
    for (int64_t i = 0; i < params.size; ++i) {
      const T y = from_float<T>(to_float(x[i]) * scale);
      out[i] = from_float<T>(to_float(weight[i]) * to_float(y));
    }
  }
}

}  // namespace

void rms_norm_cpu(const RmsNormParams& params, const ParallelFor& parallel_for) {
  const RangeBody body = [&](int64_t begin, int64_t end) {
    switch (params.dtype) {
      case DType::kFloat32: return normalize<float>(params, begin, end);
      case DType::kBFloat16: return normalize<BFloat16>(params, begin, end);
      case DType::kFloat16: return normalize<Half>(params, begin, end);
    }
  };
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, params.size));
  if (params.rows > grain) return parallel_for(params.rows, grain, body);
  if (params.rows > 0) body(0, params.rows);
}

}  // namespace steer
