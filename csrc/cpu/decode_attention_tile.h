// decode_attention, the kernel body for one instruction set; written once over `Vec`.
//
// A task is a block of keys of one key head, and all queries that read it: `group` heads for each
// of the row's new tokens. Three passes:
//   scores: kLanes keys at a time, multiplied with every query. Lanes run along the head size; the
//     kLanes sums of one query are added up across lanes together, by `sum_each`.
//   weights: exp(score - the query's largest of this block), in place. What a query must not read
//     gets weight 0, and its value is not touched: it may be anything, NaN included.
//   values: kPart keys at a time, which then lie in L1 for all queries; the sums of kHeads queries
//     of up to 4 vectors stay in registers.
// Both products are computed on float rows of whole vectors. Rows of float32 that are such already
// are read in place; others, and the last few keys of a row, are copied into L1 first, padded by 0.
//
// Every sum runs in an order that is fixed by the positions of the keys, so a query gets bitwise
// the same result whichever other queries are there.
//
// Included once by tiles.h, inside an anonymous namespace and after `Vec`, `Exponential`,
// `sum_each` and decode_attention_rows.h. No lambdas here: GCC does not apply a target pragma to
// them.
#pragma once

// One query times kLanes keys.
inline Vec scores_of_tile(const float* query, FloatRows keys, int64_t size) {
  Vec sum[Vec::kLanes];
  for (int j = 0; j < Vec::kLanes; ++j) sum[j] = Vec::set1(0.0f);
  for (int64_t i = 0; i < size; i += Vec::kLanes) {
    const Vec q = Vec::load(query + i);
    for (int j = 0; j < Vec::kLanes; ++j)
      sum[j] = Vec::fma(Vec::load(keys.data + j * keys.stride + i), q, sum[j]);
  }
  return sum_each(sum);
}

// Queries as scaled floats: those of token i are rows i * group .. (i + 1) * group - 1.
template <class T>
inline void load_queries(const AttentionTask<T>& task, AttentionScratch& scratch) {
  const DecodeAttentionParams& params = task.params;
  const int64_t group = params.group(), size = scratch.query_size;
  for (int64_t i = 0; i < params.queries; ++i)
    copy_rows(task.at(params.query, task.kv_head * group, i), params.query.head, group,
              params.size, scratch.query + i * group * size);
  for (int64_t i = 0; i < params.queries * group * size; ++i) scratch.query[i] *= params.scale;
}

template <class T>
inline void compute_scores(const AttentionTask<T>& task, AttentionScratch& scratch) {
  const DecodeAttentionParams& params = task.params;
  const int64_t group = params.group(), size = scratch.query_size;
  const int64_t count = task.block.size(), rows = params.queries * group;
  const int64_t first = std::max<int64_t>(0, task.keys_of(0).begin) / Vec::kLanes * Vec::kLanes;
  for (int64_t at = first; at < count; at += Vec::kLanes) {
    const T* data = task.at(params.keys, task.kv_head, task.block.begin + at);
    const int64_t stride = params.keys.token, here = std::min<int64_t>(Vec::kLanes, count - at);
    const Ahead ahead = task.ahead_of_keys(at);
    FloatRows keys{scratch.staged, size};
    if (here == Vec::kLanes) {
      keys = as_float_rows(data, stride, here, params.size, scratch.staged);
    } else {
      copy_rows(data, stride, here, params.size, scratch.staged);
      std::fill(scratch.staged + here * size, scratch.staged + Vec::kLanes * size, 0.0f);
    }
    for (int64_t i = 0; i < params.queries; ++i) {
      const KeyRange range = task.keys_of(i);
      if (range.end <= at || range.begin >= at + Vec::kLanes) continue;
      for (int64_t r = i * group; r < (i + 1) * group; ++r) {
        store(scratch.scores + r * kBlockKeys + at,
              scores_of_tile(scratch.query + r * size, keys, size));
        for (int64_t j = r * Vec::kLanes / rows; j < (r + 1) * Vec::kLanes / rows; ++j)
          ahead.prefetch_row(j);
      }
    }
  }
}

inline float largest_lane(Vec vector) {
  float lanes[Vec::kLanes];
  store(lanes, vector);
  float largest = lanes[0];
  for (int i = 1; i < Vec::kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}

// Turns the scores of one query in `range` into weights; returns their sum, and the largest score.
// A largest score of -inf says that nothing has a weight.
inline float weigh(float* scores, KeyRange range, const Exponential<false>& exponential,
                   float* maximum) {
  constexpr int64_t kStep = kLockstep * Vec::kLanes;
  const int64_t begin = range.begin / kStep * kStep;
  const int64_t end = (range.end + kStep - 1) / kStep * kStep;
  std::fill(scores + begin, scores + range.begin, kMinusInfinity);
  std::fill(scores + range.end, scores + end, kMinusInfinity);
  Vec max = Vec::set1(kMinusInfinity);
  for (int64_t i = begin; i < end; i += Vec::kLanes) max = Vec::max(max, Vec::load(scores + i));
  *maximum = largest_lane(max);
  if (*maximum == kMinusInfinity) {  // Vec::max may have lost a NaN
    for (int64_t i = range.begin; i < range.end; ++i)
      if (std::isnan(scores[i])) *maximum = scores[i];
    if (!std::isnan(*maximum)) return 0.0f;
  }
  max = Vec::set1(*maximum);
  Vec sum = Vec::set1(0.0f);
  for (int64_t i = begin; i < end; i += kStep) {
    Vec x[kLockstep], e[kLockstep];
    for (int j = 0; j < kLockstep; ++j)
      x[j] = Vec::sub(Vec::load(scores + i + j * Vec::kLanes), max);
    exponential.clamp(x);
    exponential.exp(x, e);
    for (int j = 0; j < kLockstep; ++j) {
      store(scores + i + j * Vec::kLanes, e[j]);
      sum = Vec::add(sum, e[j]);
    }
  }
  float lanes[Vec::kLanes];
  store(lanes, sum);
  double total = 0.0;
  for (int i = 0; i < Vec::kLanes; ++i) total += lanes[i];
  return static_cast<float>(total);
}

// Adds the values of some keys, times their weights, to the sums of Q queries, in C vectors.
template <int Q, int C>
inline void add_values(const float* weights, FloatRows values, int64_t keys, float* sums,
                       int64_t sums_stride, Ahead ahead) {
  Vec sum[Q][C];
  for (int q = 0; q < Q; ++q)
    for (int c = 0; c < C; ++c) sum[q][c] = Vec::load(sums + q * sums_stride + c * Vec::kLanes);
  for (int64_t j = 0; j < keys; ++j) {
    Vec value[C];
    for (int c = 0; c < C; ++c)
      value[c] = Vec::load(values.data + j * values.stride + c * Vec::kLanes);
    ahead.prefetch_row(j);
    for (int q = 0; q < Q; ++q) {
      const Vec weight = Vec::set1(weights[q * kBlockKeys + j]);
      for (int c = 0; c < C; ++c) sum[q][c] = Vec::fma(weight, value[c], sum[q][c]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int c = 0; c < C; ++c) store(sums + q * sums_stride + c * Vec::kLanes, sum[q][c]);
}

// The same for Q queries in all columns.
template <int Q>
inline void add_all_columns(const float* weights, FloatRows values, int64_t keys, float* sums,
                            int64_t size, Ahead ahead) {
  constexpr int64_t kWide = 4 * Vec::kLanes;
  const int64_t parts = std::max<int64_t>(1, size / kWide);
  int64_t at = 0;
  for (; at + kWide <= size; at += kWide)
    add_values<Q, 4>(weights, {values.data + at, values.stride}, keys, sums + at, size,
                     ahead.part(at / kWide, parts));
  if (parts * kWide <= size) ahead = {};
  for (; at + 2 * Vec::kLanes <= size; at += 2 * Vec::kLanes, ahead = {})
    add_values<Q, 2>(weights, {values.data + at, values.stride}, keys, sums + at, size, ahead);
  for (; at < size; at += Vec::kLanes, ahead = {})
    add_values<Q, 1>(weights, {values.data + at, values.stride}, keys, sums + at, size, ahead);
}

template <class T>
inline void sum_values(const AttentionTask<T>& task, AttentionScratch& scratch, float* sums,
                       int64_t sums_stride) {
  const DecodeAttentionParams& params = task.params;
  const int64_t group = params.group(), tiles = (group + kHeads - 1) / kHeads;
  const int64_t first = std::max<int64_t>(0, task.keys_of(0).begin) / kPart * kPart;
  for (int64_t at = first; at < task.block.size(); at += kPart) {
    const KeyRange part{at, std::min(at + kPart, task.block.size())};
    const Ahead ahead = task.ahead_of_values(at);
    const FloatRows values =
        as_float_rows(task.at(params.values, task.kv_head, task.block.begin + at),
                      params.values.token, part.size(), params.value_size, scratch.staged);
    for (int64_t i = 0; i < params.queries; ++i) {
      const KeyRange keys = task.keys_of(i).within(part);
      if (keys.size() == 0) continue;
      const FloatRows read{values.data + (keys.begin - at) * values.stride, values.stride};
      const float* weights = scratch.scores + i * group * kBlockKeys + keys.begin;
      float* of_token = sums + i * group * sums_stride;
      for (int64_t g = 0; g < group; g += kHeads) {
        const Ahead share = ahead.part(i * tiles + g / kHeads, params.queries * tiles);
        const float* w = weights + g * kBlockKeys;
        float* of_tile = of_token + g * sums_stride;
        switch (std::min<int64_t>(kHeads, group - g)) {
          case 1: add_all_columns<1>(w, read, keys.size(), of_tile, sums_stride, share); break;
          case 2: add_all_columns<2>(w, read, keys.size(), of_tile, sums_stride, share); break;
          case 3: add_all_columns<3>(w, read, keys.size(), of_tile, sums_stride, share); break;
          default: add_all_columns<4>(w, read, keys.size(), of_tile, sums_stride, share);
        }
      }
    }
  }
}

template <class T>
void attend_of(const DecodeAttentionParams& params, DecodeAttentionWorkspace& work,
               int64_t begin, int64_t end) {
  const int64_t rows = work.rows_of_task, width = work.padded_value_size;
  const Exponential<false> exponential(1.0f);
  AttentionScratch scratch(params, rows);
  for (int64_t index = begin; index < end; ++index) {
    const AttentionTask<T> task(params, work, index);
    load_queries(task, scratch);
    compute_scores(task, scratch);
    float* sums = work.values.get() + index * rows * width;
    std::fill(sums, sums + rows * width, 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      const KeyRange range = task.keys_of(r / params.group());
      float *sum = &work.sums[index * rows + r], *maximum = &work.maxima[index * rows + r];
      *sum = 0.0f;
      *maximum = kMinusInfinity;
      if (range.size() != 0)
        *sum = weigh(scratch.scores + r * kBlockKeys, range, exponential, maximum);
      if (*maximum == kMinusInfinity)  // its sums are left out of the merge
        std::fill(scratch.scores + r * kBlockKeys, scratch.scores + (r + 1) * kBlockKeys, 0.0f);
    }
    sum_values(task, scratch, sums, width);
  }
}

template <class T>
void merge_of(const DecodeAttentionParams& params, const DecodeAttentionWorkspace& work,
              int64_t begin, int64_t end) {
  const int64_t rows = work.rows_of_task, width = work.padded_value_size;
  std::vector<float> total(width);
  for (int64_t head = begin; head < end; ++head) {
    const int64_t row = head / params.kv_heads, kv_head = head % params.kv_heads;
    const int64_t blocks = work.blocks_of(params, row);
    const int64_t first = work.tasks[row] + kv_head * blocks;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = r / params.group(), h = kv_head * params.group() + r % params.group();
      float maximum = kMinusInfinity, weight = 0.0f;
      for (int64_t b = first; b < first + blocks; ++b)
        maximum = work.maxima[b * rows + r] > maximum ? work.maxima[b * rows + r] : maximum;
      std::fill(total.begin(), total.end(), 0.0f);
      for (int64_t b = first; b < first + blocks; ++b) {
        const float largest = work.maxima[b * rows + r];
        if (largest == kMinusInfinity) continue;
        const float factor = std::exp(largest - maximum);
        const Vec times = Vec::set1(factor);
        const float* sums = work.values.get() + (b * rows + r) * width;
        weight += factor * work.sums[b * rows + r];
        for (int64_t c = 0; c < width; c += Vec::kLanes)
          store(&total[c], Vec::fma(times, Vec::load(sums + c), Vec::load(&total[c])));
      }
      T* out = static_cast<T*>(params.out) +
               ((row * params.queries + i) * params.heads + h) * params.value_size;
      const float inverse = weight == 0.0f ? 0.0f : 1.0f / weight;
      for (int64_t c = 0; c < params.value_size; ++c) out[c] = from_float<T>(total[c] * inverse);
    }
  }
}

void attend_of_dtype(const DecodeAttentionParams& params, DecodeAttentionWorkspace& work,
                     int64_t begin, int64_t end) {
  switch (params.dtype) {
    case DType::kFloat32: return attend_of<float>(params, work, begin, end);
    case DType::kBFloat16: return attend_of<BFloat16>(params, work, begin, end);
    case DType::kFloat16: return attend_of<Half>(params, work, begin, end);
  }
}

void merge_of_dtype(const DecodeAttentionParams& params, const DecodeAttentionWorkspace& work,
                    int64_t begin, int64_t end) {
  switch (params.dtype) {
    case DType::kFloat32: return merge_of<float>(params, work, begin, end);
    case DType::kBFloat16: return merge_of<BFloat16>(params, work, begin, end);
    case DType::kFloat16: return merge_of<Half>(params, work, begin, end);
  }
}
