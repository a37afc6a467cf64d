// logit_stats, the kernel body for one instruction set; written once over `Vec`.
//
// A tile (at most kTile columns) is passed over three times, the first time from memory and then
// from L1: maximum; exponentials (a NaN shows in their sum); and, only if the tile's maximum beats
// the k-th best element so far, a threshold test that hands candidates to the top-k queue. That
// pass looks only into the blocks whose own maximum, left by the first pass, beats it too.
// Sums run in float over 2 x kLanes independent lanes of at most kTile / (2 kLanes) terms each
// and are added up in double, so the rounding error does not grow with the vocabulary.
// Columns that do not fill a whole step are copied into a buffer padded with -inf, which changes
// neither maximum nor sums and never passes the threshold test.
//
// Included once by each per-ISA file, inside an anonymous namespace and after `Vec`: nothing
// compiled for one instruction set can be picked by the linker for another. No lambdas here: GCC
// does not apply a target pragma to them.
#pragma once

constexpr int kUnroll = 4;
constexpr int64_t kStep = kUnroll * Vec::kLanes;
constexpr int64_t kBlock = 4 * kStep;  // the top-k pass skips blocks by their maxima
constexpr int64_t kBlocks = kTile / kBlock;

// Lane-wise maxima of each block of a tile's body, and of its tail.
struct MaxState {
  Vec block[kBlocks];
  Vec tail;
};

struct ExpState {
  Vec sum[2];
  Vec weighted[2];
  Vec mass[2];  // under a temperature, where asked for
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

// Lane-wise maximum of at most a block of whole steps. Vec::max gives its second argument if one is
// NaN, so a NaN may get lost here.
template <class T>
inline Vec max_of_block(const T* data, int64_t columns) {
  Vec lanes[kUnroll];
  for (int j = 0; j < kUnroll; ++j) lanes[j] = Vec::load(data + j * Vec::kLanes);
  for (int64_t i = kStep; i < columns; i += kStep)
    for (int j = 0; j < kUnroll; ++j)
      lanes[j] = Vec::max(lanes[j], Vec::load(data + i + j * Vec::kLanes));
  return Vec::max(Vec::max(lanes[0], lanes[1]), Vec::max(lanes[2], lanes[3]));
}

// The maximum of a tile; leaves the maxima of its blocks in `state`.
template <class T>
inline float max_pass(const Tile<T>& tile, MaxState& state) {
  Vec max = Vec::set1(-std::numeric_limits<float>::infinity());
  int64_t block = 0;
  for (int64_t i = 0; i < tile.body_columns; i += kBlock, ++block) {
    state.block[block] = max_of_block(tile.body + i, std::min(kBlock, tile.body_columns - i));
    max = Vec::max(max, state.block[block]);
  }
  if (tile.tail_columns != 0) {
    state.tail = max_of_block(tile.tail, kStep);
    max = Vec::max(max, state.tail);
  }
  float lanes[Vec::kLanes];
  std::memcpy(lanes, &max, sizeof(max));
  return *std::max_element(lanes, lanes + Vec::kLanes);
}

// A NaN among the data makes the sum NaN.
template <bool kTempered, class T>
inline void exp_pass(const T* data, int64_t columns, Vec max, const Tempering& tempering,
                     ExpState& result) {
  ExpState state = result;  // in registers
  for (int64_t i = 0; i < columns; i += kStep) {
    for (int j = 0; j < kUnroll; ++j) {
      const Vec d = Vec::sub(Vec::load(data + i + j * Vec::kLanes), max);
      const Vec shifted = clamp_exponent(d);
      const Vec e = exp_nonpositive(shifted);
      state.sum[j & 1] = Vec::add(state.sum[j & 1], e);
      state.weighted[j & 1] = Vec::fma(shifted, e, state.weighted[j & 1]);
      if (kTempered) state.mass[j & 1] = Vec::add(state.mass[j & 1], tempering.exp(d));
    }
  }
  result = state;
}

inline double sum_lanes(Vec a, Vec b) {
  float lanes[2 * Vec::kLanes];
  std::memcpy(lanes, &a, sizeof(a));
  std::memcpy(lanes + Vec::kLanes, &b, sizeof(b));
  double totals[4] = {};  // four chains of additions instead of one
  for (int i = 0; i < 2 * Vec::kLanes; i += 4)
    for (int j = 0; j < 4; ++j) totals[j] += lanes[i + j];
  return (totals[0] + totals[1]) + (totals[2] + totals[3]);
}

struct TileSums {
  SoftmaxAccumulator softmax;
  double mass;  // under the temperature, where asked for
};

// A tile with a maximum that is not finite, which may be due to NaN. Each +inf weighs 1, everything
// else 0.
template <class T>
TileSums irregular_tile(const T* data, int64_t columns, float max) {
  double count = 0.0;
  for (int64_t i = 0; i < columns; ++i) {
    const float x = to_float(data[i]);
    if (std::isnan(x)) return {SoftmaxAccumulator::not_a_number(), 0.0};
    count += x == std::numeric_limits<float>::infinity() ? 1.0 : 0.0;
  }
  return {{max, count, 0.0}, count};
}

template <bool kTempered, class T>
TileSums sums_of_tile(const Tile<T>& tile, const Tempering& tempering, MaxState& maxima) {
  const float max = max_pass(tile, maxima);
  if (!(std::fabs(max) < std::numeric_limits<float>::infinity()))
    return irregular_tile(tile.body, tile.body_columns + tile.tail_columns, max);

  const Vec zero = Vec::set1(0.0f);
  ExpState sums{{zero, zero}, {zero, zero}, {zero, zero}};
  exp_pass<kTempered>(tile.body, tile.body_columns, Vec::set1(max), tempering, sums);
  if (tile.tail_columns != 0)
    exp_pass<kTempered>(tile.tail, kStep, Vec::set1(max), tempering, sums);
  const double sum = sum_lanes(sums.sum[0], sums.sum[1]);
  if (std::isnan(sum)) return {SoftmaxAccumulator::not_a_number(), 0.0};
  return {{max, sum, sum_lanes(sums.weighted[0], sums.weighted[1])},
          kTempered ? sum_lanes(sums.mass[0], sums.mass[1]) : 0.0};
}

// Offers at most a block to a queue; data is readable up to the next multiple of kStep.
template <class T>
void offer(const T* data, int64_t columns, int64_t first_id, TopKQueue& queue) {
  int64_t i = 0;
  while (!queue.full() && i < columns) {  // whole steps, so that the vector loop stays aligned
    const int64_t stop = std::min(columns, i + kStep);
    for (; i < stop; ++i) queue.push(to_float(data[i]), first_id + i);
  }
  for (; i < columns; i += Vec::kLanes) {
    uint32_t candidates = Vec::greater(Vec::load(data + i), Vec::set1(queue.threshold()));
    for (; candidates != 0; candidates &= candidates - 1) {
      const int64_t index = i + __builtin_ctz(candidates);
      queue.push(to_float(data[index]), first_id + index);
    }
  }
}

inline bool may_enter(Vec maxima, const TopKQueue& queue) {
  return !queue.full() || Vec::greater(maxima, Vec::set1(queue.threshold())) != 0;
}

template <class T>
void topk_pass(const Tile<T>& tile, const MaxState& maxima, int64_t first_id, TopKQueue& queue) {
  int64_t block = 0;
  for (int64_t i = 0; i < tile.body_columns; i += kBlock, ++block)
    if (may_enter(maxima.block[block], queue))
      offer(tile.body + i, std::min(kBlock, tile.body_columns - i), first_id + i, queue);
  if (tile.tail_columns != 0 && may_enter(maxima.tail, queue))
    offer(tile.tail, tile.tail_columns, first_id + tile.body_columns, queue);
}

template <bool kTempered, class T>
void reduce_tasks(const LogitStatsParams& params, LogitStatsWorkspace& work, int64_t begin,
                  int64_t end) {
  TopKQueue queue(work.k);
  const Tempering tempering(work.inverse_temperature);
  int64_t slot = begin;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t row = task / work.tiles_per_row;
    const int64_t column = (task - row * work.tiles_per_row) * kTile;
    if (column == 0 && task != begin) {  // a new row: hand in the queue of the last one
      work.store(slot, queue);
      queue.clear();
      slot = task;
    }
    const T* data = static_cast<const T*>(params.logits) + row * params.row_stride + column;
    const Tile<T> tile(data, std::min(kTile, params.vocab - column));
    MaxState maxima;
    const TileSums sums = sums_of_tile<kTempered>(tile, tempering, maxima);
    work.partials[task] = sums.softmax;
    if (kTempered) work.masses[task] = sums.mass;
    if (queue.full() && !(sums.softmax.max > queue.threshold())) continue;
    topk_pass(tile, maxima, column, queue);
  }
  work.store(slot, queue);
}

template <class T>
void reduce_tasks_of(const LogitStatsParams& params, LogitStatsWorkspace& work, int64_t begin,
                     int64_t end) {
  if (work.masses.empty()) reduce_tasks<false, T>(params, work, begin, end);
  else reduce_tasks<true, T>(params, work, begin, end);
}

inline void reduce_tasks_of_dtype(const LogitStatsParams& params, LogitStatsWorkspace& work,
                                  int64_t begin, int64_t end) {
  switch (params.dtype) {
    case DType::kFloat32: return reduce_tasks_of<float>(params, work, begin, end);
    case DType::kBFloat16: return reduce_tasks_of<BFloat16>(params, work, begin, end);
    case DType::kFloat16: return reduce_tasks_of<Half>(params, work, begin, end);
  }
}
