// logit_stats, the kernel body for one instruction set; written once over `Vec`.
//
// One pass over a tile (at most kTile columns) finds its maximum and, relative to a reference that
// is known beforehand, sums its exponentials. The reference is the largest of a few columns of every
// tile of the row: any number serves that lies near the row's maximum, or above the tile's. Where the
// tile turns out to reach far above it (or to lie so far below that its sums are lost), a second pass
// over the tile, now in L1, sums relative to the tile's own maximum. A NaN shows in the sums.
// topk_tile.h then looks for candidates in the blocks whose maxima, which this pass leaves, may hold
// some.
// Sums run in float over 2 x kLanes independent lanes of at most kTile / (2 kLanes) terms each
// and are added up in double, so the rounding error does not grow with the vocabulary.
// Columns that do not fill a whole step are copied into a buffer padded with -inf, which changes
// neither maximum nor sums and never passes the threshold test.
//
// Included once by tiles.h, inside an anonymous namespace and after `Vec`: nothing
// compiled for one instruction set can be picked by the linker for another. No lambdas here: GCC
// does not apply a target pragma to them.
#pragma once

constexpr int kUnroll = 4;
constexpr int64_t kStep = kUnroll * Vec::kLanes;
constexpr int64_t kBlock = 4 * kStep;  // the top-k pass skips blocks by their maxima
constexpr int64_t kBlocks = kTile / kBlock;
// How far above its reference a maximum may lie: d exp(d) rounds in proportion to the distance.
constexpr float kReachAbove = 2.0f;
constexpr float kReachBelow = 40.0f;
constexpr int64_t kMassColumns = 4 * kBlock;  // that mass_of_tile adds up in float
constexpr int64_t kSample = 128;  // columns of each tile that the reference is the largest of

// Lane-wise maxima of each block of a tile's body, and of its tail.
struct MaxState {
  Vec block[kBlocks];
  Vec tail;
};

struct ExpState {
  Vec sum[2];
  Vec weighted[2];
};

// A tile as whole steps in place plus at most one padded step.
template <class T>
struct Tile {
  const T* body;
  int64_t body_columns;  // a multiple of kStep
  int64_t tail_columns;  // below kStep
  T tail[kStep];

  Tile(const T* data, int64_t columns)
      : body(data), body_columns(columns / kStep * kStep), tail_columns(columns - body_columns) {
    if (tail_columns == 0) return;
    std::memcpy(tail, data + body_columns, tail_columns * sizeof(T));
    const T minus_infinity = negative_infinity(T{});
    std::fill(tail + tail_columns, tail + kStep, minus_infinity);
  }

  static float negative_infinity(float) { return -std::numeric_limits<float>::infinity(); }
  static BFloat16 negative_infinity(BFloat16) { return {0xFF80}; }
  static Half negative_infinity(Half) { return {0xFC00}; }
};

// The largest lane. Vec::max gives its second argument if one is NaN, so a NaN may get lost.
STEER_INLINE float max_of_lanes(Vec max) {
  float lanes[Vec::kLanes];
  std::memcpy(lanes, &max, sizeof(max));
  for (int half = Vec::kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}

inline bool is_finite(float x) { return std::fabs(x) < std::numeric_limits<float>::infinity(); }

// The largest of the first kSample columns of each tile; no reference where that is not finite.
template <class T>
float reference_of_row(const LogitStatsParams& params, int64_t row) {
  const T* data = static_cast<const T*>(params.logits) + row * params.row_stride;
  const Vec lowest = Vec::set1(-std::numeric_limits<float>::infinity());
  Vec max[2] = {lowest, lowest};
  for (int64_t column = 0; column < params.vocab; column += kTile) {
    const int64_t stop = std::min(column + kSample, params.vocab - kStep + 1);
    for (int64_t i = column; i < stop; i += kStep)
      for (int j = 0; j < kUnroll; ++j)
        max[j & 1] = Vec::max(max[j & 1], Vec::load(data + i + j * Vec::kLanes));
  }
  return max_of_lanes(Vec::max(max[0], max[1]));
}

// Adds the exponentials of at most a block of whole steps, and returns its lane-wise maxima. A block
// has sums of its own: weights that are nearly equal would all be rounded in one direction by a sum
// that grows through the tile.
template <class T>
STEER_INLINE Vec sum_block(const T* data, int64_t columns, Vec reference,
                     const Exponential<false>& exponential, ExpState& total) {
  const Vec lowest = Vec::set1(-std::numeric_limits<float>::infinity()), zero = Vec::set1(0.0f);
  ExpState state{{zero, zero}, {zero, zero}};
  Vec max[2] = {lowest, lowest};
  for (int64_t i = 0; i < columns; i += kStep) {
    for (int first = 0; first < kUnroll; first += kLockstep) {
      Vec d[kLockstep], e[kLockstep];
      for (int j = 0; j < kLockstep; ++j) {
        const Vec x = Vec::load(data + i + (first + j) * Vec::kLanes);
        max[j & 1] = Vec::max(max[j & 1], x);
        d[j] = Vec::sub(x, reference);
      }
      exponential.clamp(d);
      exponential.exp(d, e);
      for (int j = 0; j < kLockstep; ++j) {
        const int lane = (first + j) & 1;
        state.sum[lane] = Vec::add(state.sum[lane], e[j]);
        state.weighted[lane] = Vec::fma(d[j], e[j], state.weighted[lane]);
      }
    }
  }
  for (int lane : {0, 1}) {
    total.sum[lane] = Vec::add(total.sum[lane], state.sum[lane]);
    total.weighted[lane] = Vec::add(total.weighted[lane], state.weighted[lane]);
  }
  return Vec::max(max[0], max[1]);
}

STEER_INLINE double sum_lanes(const Vec (&vectors)[2]) {
  float lanes[2 * Vec::kLanes];
  std::memcpy(lanes, &vectors, sizeof(lanes));
  double totals[4] = {};  // four chains of additions instead of one
  for (int i = 0; i < 2 * Vec::kLanes; i += 4)
    for (int j = 0; j < 4; ++j) totals[j] += lanes[i + j];
  return (totals[0] + totals[1]) + (totals[2] + totals[3]);
}

// One pass over a tile: its maximum, the maxima of its blocks, and its sums.
template <class T>
STEER_INLINE float sum_pass(const Tile<T>& tile, float reference, const Exponential<false>& exponential,
                      MaxState& maxima, ExpState& result) {
  const Vec zero = Vec::set1(0.0f), at = Vec::set1(reference);
  ExpState state{{zero, zero}, {zero, zero}};
  Vec max = Vec::set1(-std::numeric_limits<float>::infinity());
  maxima.tail = max;
  int64_t block = 0;
  for (int64_t i = 0; i < tile.body_columns; i += kBlock, ++block) {
    const int64_t columns = std::min(kBlock, tile.body_columns - i);
    maxima.block[block] = sum_block(tile.body + i, columns, at, exponential, state);
    max = Vec::max(max, maxima.block[block]);
  }
  if (tile.tail_columns != 0) {
    maxima.tail = sum_block(tile.tail, kStep, at, exponential, state);
    max = Vec::max(max, maxima.tail);
  }
  result = state;
  return max_of_lanes(max);
}

// A tile with a maximum that is not finite, which may be due to NaN. Each +inf weighs 1, everything
// else 0.
template <class T>
SoftmaxAccumulator irregular_tile(const T* data, int64_t columns, float max) {
  double count = 0.0;
  for (int64_t i = 0; i < columns; ++i) {
    const float x = to_float(data[i]);
    if (std::isnan(x)) return SoftmaxAccumulator::not_a_number();
    count += x == std::numeric_limits<float>::infinity() ? 1.0 : 0.0;
  }
  return {max, max, count, 0.0};
}

// Sums of exp(d) from those of exp(rate * d), rate = 1 + b: d exp(d) is the derivative of exp(d), so
// b times its sum is what the sum of exponentials has too much. With both sums divided by the same
// factor their quotient stays as it is, which leaves the entropy off by b times the variance of d:
// below 1e-6 * |b| / 1e-8.
inline SoftmaxAccumulator sums_at(float max, float base, double rate, double sum, double weighted) {
  const double scale = sum == 0.0 ? 1.0 : 1.0 - (rate - 1.0) * (weighted / sum);
  return {max, base, scale * sum, scale * weighted};
}

template <class T>
SoftmaxAccumulator sums_of_tile(const Tile<T>& tile, float reference,
                                const Exponential<false>& exponential, MaxState& maxima) {
  ExpState state;
  const bool guess = !is_finite(reference);
  if (guess) reference = 0.0f;
  const float max = sum_pass(tile, reference, exponential, maxima, state);
  if (!is_finite(max))
    return irregular_tile(tile.body, tile.body_columns + tile.tail_columns, max);
  if (guess || max - reference > kReachAbove || reference - max > kReachBelow) {
    reference = max;
    sum_pass(tile, reference, exponential, maxima, state);
  }
  const double sum = sum_lanes(state.sum) / kExpUnit;
  if (std::isnan(sum)) return SoftmaxAccumulator::not_a_number();
  return sums_at(max, reference, exponential.rate, sum, sum_lanes(state.weighted) / kExpUnit);
}

template <class T>
STEER_INLINE void add_masses(const T* data, int64_t columns, Vec max, const Exponential<true>& tempered,
                       Vec (&result)[2]) {
  Vec sum[2] = {result[0], result[1]};  // in registers
  for (int64_t i = 0; i < columns; i += kLockstep * Vec::kLanes) {
    Vec d[kLockstep];
    for (int j = 0; j < kLockstep; ++j)
      d[j] = Vec::sub(Vec::load(data + i + j * Vec::kLanes), max);
    tempered.clamp(d);
    tempered.add_exp(d, sum);
  }
  result[0] = sum[0];
  result[1] = sum[1];
}

// sum exp((x - max) / temperature); a pass of its own, over a tile that is in L1.
template <class T>
double mass_of_tile(const Tile<T>& tile, const SoftmaxAccumulator& softmax,
                    const Exponential<true>& tempered) {
  if (!is_finite(softmax.max)) return softmax.sum;  // the number of +inf
  const Vec max = Vec::set1(softmax.max), zero = Vec::set1(0.0f);
  double mass = 0.0;
  for (int64_t i = 0; i < tile.body_columns; i += kMassColumns) {
    Vec sum[2] = {zero, zero};
    add_masses(tile.body + i, std::min(kMassColumns, tile.body_columns - i), max, tempered, sum);
    mass += sum_lanes(sum);
  }
  if (tile.tail_columns != 0) {
    Vec sum[2] = {zero, zero};
    add_masses(tile.tail, kStep, max, tempered, sum);
    mass += sum_lanes(sum);
  }
  return mass / kExpUnit;
}
