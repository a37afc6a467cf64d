// decode_linear: the inner loops.
//
// Included once by each per-ISA file, in its namespace, after a simd_*.h. No lambdas here: GCC does
// not apply a target pragma to them.
//
// A tile is a few rows of weights times a few tokens. Its sums stay in registers while the rows are
// read from front to back, a cache line of each at a time. Element k of a row always goes to the
// same lane of one sum, in ascending order, and the lanes are added up in a fixed order: so an
// output has the same bits in whatever tile it is.
#pragma once

// Rows of a tile: the sums, a vector of each row and one of a token have to fit in the registers.
constexpr int rows_of_tile(int tokens) {
  return std::min(4, (Vec::kRegisters - 1) / (tokens + 1));
}
// Weights are asked for this long before they are needed. Rows are short, and the processor's own
// prefetcher has just understood one when it ends.
constexpr int64_t kLinearAheadBytes = 32 * 1024;

// How weights of type T are multiplied: as floats, with tokens that are floats already.
template <class T>
struct AsFloats {
  using Weight = T;
  using Token = float;
  using Register = Vec;
  static constexpr int64_t kWidth = Vec::kLanes;

  static Vec weights(const T* p) { return Vec::load(p); }
  static Vec tokens(const float* p) { return Vec::held(Vec::load(p)); }
  static Vec multiply_add(Vec w, Vec t, Vec sum) { return Vec::fma(w, t, sum); }
};

// Adds a cache line of each row to the sums.
template <class As, int kRows, int kTokens>
inline void add_step(const typename As::Weight* weight, int64_t weight_stride,
                     const typename As::Token* x, int64_t x_stride, Vec* sums) {
  constexpr int64_t kStep = kLineBytes / sizeof(typename As::Weight);
  for (int64_t j = 0; j < kStep; j += As::kWidth) {
    typename As::Register w[kRows];
    for (int i = 0; i < kRows; ++i) w[i] = As::weights(weight + i * weight_stride + j);
    for (int t = 0; t < kTokens; ++t) {
      const typename As::Register token = As::tokens(x + t * x_stride + j);
      for (int i = 0; i < kRows; ++i)
        sums[i * kTokens + t] = As::multiply_add(w[i], token, sums[i * kTokens + t]);
    }
  }
}

template <class As, int kRows, int kTokens>
inline void multiply_tile(const typename As::Weight* weight, int64_t weight_stride,
                          int64_t in_features, const typename As::Token* x, int64_t x_stride,
                          float (&out)[kRows * kTokens]) {
  using T = typename As::Weight;
  constexpr int64_t kStep = kLineBytes / sizeof(T);
  constexpr int kSums = (kRows * kTokens + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes;
  Vec sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = Vec::set1(0.0f);
  const int64_t body = in_features / kStep * kStep;
  const char* ahead = reinterpret_cast<const char*>(weight) + kLinearAheadBytes;
  for (int64_t k = 0; k < body; k += kStep) {
    for (int i = 0; i < kRows; ++i, ahead += kLineBytes) __builtin_prefetch(ahead, 0, 2);
    add_step<As, kRows, kTokens>(weight + k, weight_stride, x + k, x_stride, sums);
  }
  if (body < in_features) {  // the end of each row, filled up with zeros
    T end[kRows * kStep] = {};
    for (int i = 0; i < kRows; ++i)
      std::memcpy(end + i * kStep, weight + i * weight_stride + body,
                  (in_features - body) * sizeof(T));
    add_step<As, kRows, kTokens>(end, kStep, x + body, x_stride, sums);
  }
  for (int first = 0; first < kRows * kTokens; first += Vec::kLanes) {
    Vec group[Vec::kLanes];
    for (int i = 0; i < Vec::kLanes; ++i) group[i] = sums[first + i];
    const Vec total = sum_each(group);
    std::memcpy(out + first, &total,
                std::min<int>(Vec::kLanes, kRows * kTokens - first) * sizeof(float));
  }
}

// `kRows` outputs from `row` on, of up to `kTokens` tokens from `token` on.
template <class As, int kRows, int kTokens>
inline void write_tile(const DecodeLinearParams& params, LinearInput x, int64_t row,
                       int64_t token) {
  using T = typename As::Weight;
  float tile[kRows * kTokens];
  multiply_tile<As, kRows, kTokens>(
      static_cast<const T*>(params.weight) + row * params.weight_stride, params.weight_stride,
      params.in_features, static_cast<const typename As::Token*>(x.data) + token * x.stride,
      x.stride, tile);
  const int64_t count = std::min<int64_t>(kTokens, params.tokens - token);
  const T* bias = static_cast<const T*>(params.bias);
  T* out = static_cast<T*>(params.out) + token * params.out_features + row;
  for (int i = 0; i < kRows; ++i) {
    const float add = bias == nullptr ? 0.0f : to_float(bias[(row + i) * params.bias_stride]);
    for (int64_t t = 0; t < count; ++t)
      out[t * params.out_features + i] = from_float<T>(tile[i * kTokens + t] + add);
  }
}

template <class As, int kTokens>
inline void multiply_tokens(const DecodeLinearParams& params, LinearInput x, int64_t begin,
                            int64_t end) {
  constexpr int kRows = rows_of_tile(kTokens);
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows)
    for (int64_t token = 0; token < params.tokens; token += kTokens)
      write_tile<As, kRows, kTokens>(params, x, row, token);
  for (; row < end; ++row)
    for (int64_t token = 0; token < params.tokens; token += kTokens)
      write_tile<As, 1, kTokens>(params, x, row, token);
}

template <class As>
inline void multiply(const DecodeLinearParams& params, LinearInput x, int64_t begin, int64_t end) {
  switch (tile_tokens(params.tokens)) {
    case 1: return multiply_tokens<As, 1>(params, x, begin, end);
    case 2: return multiply_tokens<As, 2>(params, x, begin, end);
    case 4: return multiply_tokens<As, 4>(params, x, begin, end);
    default: return multiply_tokens<As, 8>(params, x, begin, end);
  }
}

inline void multiply_of_dtype(const DecodeLinearParams& params, LinearInput x, int64_t begin,
                              int64_t end) {
  switch (params.dtype) {
    case DType::kFloat32: return multiply<AsFloats<float>>(params, x, begin, end);
    case DType::kBFloat16: return multiply<AsFloats<BFloat16>>(params, x, begin, end);
    case DType::kFloat16: return multiply<AsFloats<Half>>(params, x, begin, end);
  }
}

template <class T>
inline void widen(const DecodeLinearParams& params, float* to, int64_t stride) {
  const int64_t body = params.in_features / Vec::kLanes * Vec::kLanes;
  const T* from = static_cast<const T*>(params.x);
  for (int64_t token = 0; token < params.tokens; ++token, from += params.x_stride, to += stride) {
    for (int64_t k = 0; k < body; k += Vec::kLanes) {
      const Vec v = Vec::load(from + k);
      std::memcpy(to + k, &v, sizeof(v));
    }
    for (int64_t k = body; k < params.in_features; ++k) to[k] = to_float(from[k]);
  }
}

inline void widen_of_dtype(const DecodeLinearParams& params, void* to, int64_t stride) {
  switch (params.dtype) {
    case DType::kFloat32: return widen<float>(params, static_cast<float*>(to), stride);
    case DType::kBFloat16: return widen<BFloat16>(params, static_cast<float*>(to), stride);
    case DType::kFloat16: return widen<Half>(params, static_cast<float*>(to), stride);
  }
}
