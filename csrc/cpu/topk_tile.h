// The top-k list of logit_stats and sample_logits, the part for one instruction set.
//
// A run is a row's consecutive tiles in one thread; its list starts empty. An element enters if it
// exceeds the bar, which is the least that could still matter:
//   - the last of the list, once that is full;
//   - the `required`-th so far, or, if that is less, `gap` below the largest so far: more than
//     `required` are listed only where min_p may keep them;
//   - to begin with, a number that at least `required` elements of the first tile reach: the least of
//     the maxima of that many groups of columns, which the summing pass has left. It spares the list
//     most of what it would take up and put out again.
// Included after logit_stats_tile.h, under the same rules.
#pragma once

struct Run {
  TopKQueue queue;
  int required;
  float gap;
  float start;  // -inf: none
  float bar;

  explicit Run(const LogitStatsWorkspace& work)
      : queue(work.k), required(work.required), gap(work.gap) {
    clear();
  }

  void clear() {
    queue.clear();
    start = bar = -std::numeric_limits<float>::infinity();
  }

  // Everything enters until the list has what is required, unless a start spares it that.
  bool open() const { return queue.size() < required && !(start > -std::numeric_limits<float>::infinity()); }

  float lowest_within_gap(float largest) const { return floor_of_gap(largest, gap, 1e-6f); }

  STEER_INLINE void push(float value, int64_t id) {
    queue.push(value, id);
    bar = start;
    if (queue.size() >= required)
      bar = std::max(bar, std::min(queue.value(required - 1), lowest_within_gap(queue.value(0))));
    if (queue.full()) bar = std::max(bar, queue.threshold());
  }
};

// Offers at most a block to the list; data is readable up to the next multiple of kStep.
template <class T>
void offer(const T* data, int64_t columns, int64_t first_id, Run& run) {
  int64_t i = 0;
  while (run.open() && i < columns) {  // whole steps, so that the vector loop stays aligned
    const int64_t stop = std::min(columns, i + kStep);
    for (; i < stop; ++i) {
      const float value = to_float(data[i]);
      if (run.open() || value > run.bar) run.push(value, first_id + i);
    }
  }
  for (; i < columns; i += Vec::kLanes) {
    uint32_t candidates = Vec::greater(Vec::load(data + i), Vec::set1(run.bar));
    for (; candidates != 0; candidates &= candidates - 1) {
      const int64_t index = i + __builtin_ctz(candidates);
      const float value = to_float(data[index]);
      if (value > run.bar) run.push(value, first_id + index);
    }
  }
}

// Where the bar of a run starts: just below what at least `required` elements of the tile reach, as
// that many groups of columns, a lane of every so many blocks each, have such a maximum.
inline float start_of(int64_t blocks, const MaxState& maxima, int required) {
  const float none = -std::numeric_limits<float>::infinity();
  constexpr int64_t kMostSets = 4 * (kMaxListLength + Vec::kLanes - 1) / Vec::kLanes;
  int64_t sets = (required + Vec::kLanes - 1) / Vec::kLanes;
  if (blocks < sets) return none;
  if (sets > 1) sets = std::min(2 * sets, blocks);  // a long list gains by a closer bar
  float groups[kMostSets * Vec::kLanes];
  for (int64_t set = 0; set < sets; ++set) {
    Vec max = maxima.block[set];
    for (int64_t block = set + sets; block < blocks; block += sets)
      max = Vec::max(max, maxima.block[block]);
    std::memcpy(groups + set * Vec::kLanes, &max, sizeof(max));
  }
  float* const end = groups + sets * Vec::kLanes;
  std::nth_element(groups, groups + required - 1, end, std::greater<float>());
  return std::nextafter(groups[required - 1], none);
}

inline bool may_enter(Vec maxima, const Run& run) {
  return run.open() || Vec::greater(maxima, Vec::set1(run.bar)) != 0;
}

template <class T>
void topk_pass(const Tile<T>& tile, const MaxState& maxima, float max, int64_t first_id,
               Run& run) {
  if (run.queue.size() == 0) {
    const float start = start_of((tile.body_columns + kBlock - 1) / kBlock, maxima, run.required);
    run.start = run.bar = std::min(start, run.lowest_within_gap(max));
  }
  int64_t block = 0;
  for (int64_t i = 0; i < tile.body_columns; i += kBlock, ++block)
    if (may_enter(maxima.block[block], run))
      offer(tile.body + i, std::min(kBlock, tile.body_columns - i), first_id + i, run);
  if (tile.tail_columns != 0 && may_enter(maxima.tail, run))
    offer(tile.tail, tile.tail_columns, first_id + tile.body_columns, run);
}

template <class T>
void reduce_tasks(const LogitStatsParams& params, LogitStatsWorkspace& work, int64_t begin,
                  int64_t end) {
  Run run(work);
  const Exponential<false> exponential(1.0f);
  const Exponential<true> tempered(work.inverse_temperature);
  int64_t slot = begin;
  float reference = 0.0f;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t row = task / work.tiles_per_row;
    const int64_t column = (task - row * work.tiles_per_row) * kTile;
    if (column == 0 && task != begin) {  // a new row: hand in the list of the last one
      work.store(slot, run.queue);
      run.clear();
      slot = task;
    }
    if (column == 0 || task == begin) reference = reference_of_row<T>(params, row);
    const T* data = static_cast<const T*>(params.logits) + row * params.row_stride + column;
    const Tile<T> tile(data, std::min(kTile, params.vocab - column));
    MaxState maxima;
    const SoftmaxAccumulator sums = sums_of_tile(tile, reference, exponential, maxima);
    work.partials[task] = sums;
    if (!work.masses.empty()) work.masses[task] = mass_of_tile(tile, sums, tempered);
    if (std::isnan(sums.max)) continue;  // the row needs no list; and NaN would upset its start
    if (run.open() || sums.max > run.bar) topk_pass(tile, maxima, sums.max, column, run);
  }
  work.store(slot, run.queue);
}

inline void reduce_tasks_of_dtype(const LogitStatsParams& params, LogitStatsWorkspace& work,
                                  int64_t begin, int64_t end) {
  switch (params.dtype) {
    case DType::kFloat32: return reduce_tasks<float>(params, work, begin, end);
    case DType::kBFloat16: return reduce_tasks<BFloat16>(params, work, begin, end);
    case DType::kFloat16: return reduce_tasks<Half>(params, work, begin, end);
  }
}
