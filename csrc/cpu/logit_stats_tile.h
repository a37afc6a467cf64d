// logit_stats, the kernel body for one instruction set; written once over `Vec`.
//
// A tile (at most kTile columns) is passed over three times, the first time from memory and then
// from L1: maximum; exponentials (a NaN shows in their sum); and, only if the tile's maximum beats
// the k-th best element so far, a threshold test that hands candidates to the top-k queue.
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

struct MaxState {
  Vec lanes[kUnroll];
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

// Vec::max gives its second argument if one is NaN, so a NaN may get lost here.
template <class T>
inline void max_pass(const T* data, int64_t columns, MaxState& state) {
  for (int64_t i = 0; i < columns; i += kStep)
    for (int j = 0; j < kUnroll; ++j)
      state.lanes[j] = Vec::max(state.lanes[j], Vec::load(data + i + j * Vec::kLanes));
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

inline float max_lanes(const MaxState& state) {
  const Vec m = Vec::max(Vec::max(state.lanes[0], state.lanes[1]),
                         Vec::max(state.lanes[2], state.lanes[3]));
  float lanes[Vec::kLanes];
  std::memcpy(lanes, &m, sizeof(m));
  return *std::max_element(lanes, lanes + Vec::kLanes);
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
TileSums sums_of_tile(const Tile<T>& tile, const Tempering& tempering) {
  const float infinity = std::numeric_limits<float>::infinity();
  MaxState found;
  for (Vec& lanes : found.lanes) lanes = Vec::set1(-infinity);
  max_pass(tile.body, tile.body_columns, found);
  if (tile.tail_columns != 0) max_pass(tile.tail, kStep, found);
  const float max = max_lanes(found);
  if (!(std::fabs(max) < infinity))
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

// Offers data[0, columns) to the queue; data is readable up to the next multiple of kStep.
template <class T>
void topk_pass(const T* data, int64_t columns, int64_t first_id, TopKQueue& queue) {
  int64_t i = 0;
  while (!queue.full() && i < columns) {  // whole steps, so that the vector loop stays aligned
    const int64_t stop = std::min(columns, i + kStep);
    for (; i < stop; ++i) queue.push(to_float(data[i]), first_id + i);
  }
  for (; i < columns; i += kStep) {
    const Vec threshold = Vec::set1(queue.threshold());
    for (int j = 0; j < kUnroll; ++j) {
      const int64_t at = i + j * Vec::kLanes;
      uint32_t candidates = Vec::greater(Vec::load(data + at), threshold);
      for (; candidates != 0; candidates &= candidates - 1) {
        const int64_t index = at + __builtin_ctz(candidates);
        queue.push(to_float(data[index]), first_id + index);
      }
    }
  }
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
    const TileSums sums = sums_of_tile<kTempered>(tile, tempering);
    work.partials[task] = sums.softmax;
    if (kTempered) work.masses[task] = sums.mass;
    if (queue.full() && !(sums.softmax.max > queue.threshold())) continue;
    topk_pass(tile.body, tile.body_columns, column, queue);
    topk_pass(tile.tail, tile.tail_columns, column + tile.body_columns, queue);
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
