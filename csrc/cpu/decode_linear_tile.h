// decode_linear: the inner loops.
//
// Included once by tiles.h, in its namespace, after a simd_*.h. No lambdas here: GCC does
// not apply a target pragma to them.
//
// A tile is a few rows of weights times a few tokens. Its sums stay in registers while a block of
// each row is read from front to back, a cache line of each at a time; a block is so short that a
// tile's tokens stay in the nearest cache while rows pass by. Element k of a block always goes to
// the same lane of one sum, in ascending order; the lanes are added up in a fixed order, and so are
// the blocks. So an output has the same bits in whatever tile it is.
#pragma once

// The sums, a vector of each row and one of a token have to fit in the registers.
constexpr int kTileRows = Vec::kRegisters == 32 ? 4 : 3;
constexpr int kTileTokens = Vec::kRegisters == 32 ? 6 : 3;
constexpr int64_t kBlockBytes = 4096;           // of a token, at most
constexpr int64_t kBlockRows = 16 * kTileRows;  // that pass by a block before the next one
constexpr int64_t kBlockTokens = 120;           // that rows pass by: half of a second cache
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

  static Vec weights(const T* p) { return Vec::held(Vec::load(p)); }
  static Vec tokens(const float* p) { return Vec::held(Vec::load(p)); }
  static Vec multiply_add(Vec w, Vec t, Vec sum) { return Vec::fma(w, t, sum); }
};

// A block of some rows of weights and of some tokens, and where to add their products.
template <class As>
struct LinearBlock {
  const typename As::Weight* weight;
  const typename As::Token* x;
  float* sums;  // [tokens, rows]
  int64_t weight_stride, x_stride, sums_stride;
  int64_t length;
  int64_t ahead;  // from a weight to the one to ask for
};

// Adds a cache line of each row to the sums.
template <class As, int kRows, int kTokens>
inline void add_step(const typename As::Weight* weight, int64_t weight_stride,
                     const typename As::Token* x, int64_t x_stride,
                     Vec (&sums)[kTokens][kRows]) {
  constexpr int64_t kStep = kLineBytes / sizeof(typename As::Weight);
  for (int64_t j = 0; j < kStep; j += As::kWidth) {
    typename As::Register w[kRows];
    for (int i = 0; i < kRows; ++i) w[i] = As::weights(weight + i * weight_stride + j);
    for (int t = 0; t < kTokens; ++t) {
      const typename As::Register token = As::tokens(x + t * x_stride + j);
      for (int i = 0; i < kRows; ++i)
        sums[t][i] = As::multiply_add(w[i], token, sums[t][i]);
    }
  }
}

// Adds the lanes of each of the sums, from the one `kFrom` on, to where they belong. A template, as
// GCC would keep sums in memory for the sake of a loop.
template <int kFrom, int kRows, int kTokens>
inline void add_lanes(const Vec (&sums)[kTokens][kRows], float* to, int64_t stride) {
  constexpr int kEnd = std::min(kFrom + Vec::kLanes, kTokens * kRows);
  Vec group[Vec::kLanes];
  for (int i = 0; i < Vec::kLanes; ++i) {
    const int at = kFrom + i;
    group[i] = at < kEnd ? sums[at / kRows][at % kRows] : Vec::set1(0.0f);
  }
  const Vec total = sum_each(group);
  float each[Vec::kLanes];
  std::memcpy(each, &total, sizeof(total));
  for (int at = kFrom; at < kEnd; ++at) to[at / kRows * stride + at % kRows] += each[at - kFrom];
  if constexpr (kEnd < kTokens * kRows) add_lanes<kEnd>(sums, to, stride);
}

// A tile of a block. It asks for the weights ahead of its rows [from, to).
template <class As, int kRows, int kTokens>
inline void add_tile(const LinearBlock<As>& block, int from, int to) {
  using T = typename As::Weight;
  constexpr int64_t kStep = kLineBytes / sizeof(T);
  Vec sums[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t)
    for (int i = 0; i < kRows; ++i) sums[t][i] = Vec::set1(0.0f);
  const int64_t body = block.length / kStep * kStep;
  for (int64_t k = 0; k < body; k += kStep) {
    for (int i = 0; i < kRows; ++i)
      if (i >= from && i < to)
        __builtin_prefetch(block.weight + i * block.weight_stride + k + block.ahead, 0, 2);
    add_step<As, kRows, kTokens>(block.weight + k, block.weight_stride, block.x + k,
                                 block.x_stride, sums);
  }
  if (body < block.length) {  // the end of each row, filled up with zeros
    T end[kRows * kStep] = {};
    for (int i = 0; i < kRows; ++i)
      std::memcpy(end + i * kStep, block.weight + i * block.weight_stride + body,
                  (block.length - body) * sizeof(T));
    add_step<As, kRows, kTokens>(end, kStep, block.x + body, block.x_stride, sums);
  }
  add_lanes<0>(sums, block.sums, block.sums_stride);
}

// How tokens are shared out among tiles: the first `larger` of them have one more than `each`.
struct LinearTiles {
  int64_t count, each, larger;

  // Of four or five tokens where the registers hold them: their sums are added up best.
  explicit LinearTiles(int64_t tokens)
      : count(std::max(tokens / 4, (tokens + kTileTokens - 1) / kTileTokens)),
        each(tokens / count),
        larger(tokens % count) {}
};

// All tokens of a block, times `kRows` rows.
template <class As, int kRows>
inline void add_rows(LinearBlock<As> block, LinearTiles tiles) {
  for (int64_t tile = 0; tile < tiles.count; ++tile) {
    // Each tile asks for a few of the rows, so that memory is read all the time.
    const int from = tile * kRows / tiles.count, to = (tile + 1) * kRows / tiles.count;
    const int64_t tokens = tiles.each + (tile < tiles.larger);
    switch (tokens) {
      case 1: add_tile<As, kRows, 1>(block, from, to); break;
      case 2: add_tile<As, kRows, 2>(block, from, to); break;
      case 3: add_tile<As, kRows, 3>(block, from, to); break;
      case 4: add_tile<As, kRows, 4>(block, from, to); break;
      case 5: add_tile<As, kRows, 5>(block, from, to); break;
      default: add_tile<As, kRows, 6>(block, from, to);
    }
    block.x += tokens * block.x_stride;
    block.sums += tokens * block.sums_stride;
  }
}

template <class As>
inline void add_block(LinearBlock<As> block, int64_t rows, LinearTiles tiles) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    add_rows<As, kTileRows>(block, tiles);
    block.weight += kTileRows * block.weight_stride;
    block.sums += kTileRows;
  }
  for (; rows > 0; --rows) {
    add_rows<As, 1>(block, tiles);
    block.weight += block.weight_stride;
    ++block.sums;
  }
}

// Elements of a block: a row is cut into as few as possible, all but the last alike.
template <class As>
inline int64_t block_length(int64_t in_features) {
  constexpr int64_t kStep = kLineBytes / sizeof(typename As::Weight);
  constexpr int64_t kMost = kBlockBytes / sizeof(typename As::Token);
  const int64_t blocks = std::max<int64_t>(1, (in_features + kMost - 1) / kMost);
  const int64_t steps = (in_features + blocks * kStep - 1) / (blocks * kStep);
  return std::max<int64_t>(1, steps) * kStep;
}

// Outputs [row, row + rows) of tokens [token, token + tokens).
template <class As>
inline void multiply_part(const DecodeLinearParams& params, LinearInput x, int64_t row,
                          int64_t rows, int64_t token, int64_t tokens) {
  using T = typename As::Weight;
  using Token = typename As::Token;
  float sums[kBlockTokens * kBlockRows];
  const T* bias = static_cast<const T*>(params.bias);
  for (int64_t i = 0; i < rows; ++i) {
    const float add = bias == nullptr ? 0.0f : to_float(bias[(row + i) * params.bias_stride]);
    for (int64_t t = 0; t < tokens; ++t) sums[t * kBlockRows + i] = add;
  }
  const int64_t length = block_length<As>(params.in_features);
  const int64_t tile_bytes = kTileRows * length * sizeof(T);
  const int64_t tiles_ahead = (kLinearAheadBytes + tile_bytes - 1) / tile_bytes;
  for (int64_t k = 0; k < params.in_features; k += length) {
    LinearBlock<As> block{
        static_cast<const T*>(params.weight) + row * params.weight_stride + k,
        static_cast<const Token*>(x.data) + token * x.stride + k,
        sums,
        params.weight_stride,
        x.stride,
        kBlockRows,
        std::min(length, params.in_features - k),
        tiles_ahead * kTileRows * params.weight_stride};
    add_block(block, rows, LinearTiles(tokens));
  }
  T* out = static_cast<T*>(params.out) + token * params.out_features + row;
  for (int64_t t = 0; t < tokens; ++t, out += params.out_features)
    for (int64_t i = 0; i < rows; ++i) out[i] = from_float<T>(sums[t * kBlockRows + i]);
}

template <class As>
inline void multiply(const DecodeLinearParams& params, LinearInput x, int64_t begin, int64_t end) {
  for (int64_t token = 0; token < params.tokens; token += kBlockTokens)
    for (int64_t row = begin; row < end; row += kBlockRows)
      multiply_part<As>(params, x, row, std::min(kBlockRows, end - row), token,
                        std::min(kBlockTokens, params.tokens - token));
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
