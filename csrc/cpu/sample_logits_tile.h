// sample_logits, the part for one instruction set: the element inside the chosen tile.
//
// Blocks of columns are summed with vectors until the running sum, kept in double, would pass the
// target; inside that block one element after another. Included after logit_stats_tile.h, under the
// same rules.
#pragma once

// kExpUnit * exp((x - max) / temperature) of whole steps, into `weights`.
template <class T>
STEER_INLINE void weights_of(const T* data, int64_t columns, float max,
                       const Exponential<true>& tempered, float* weights) {
  for (int64_t i = 0; i < columns; i += kLockstep * Vec::kLanes) {
    Vec d[kLockstep], e[kLockstep];
    for (int j = 0; j < kLockstep; ++j)
      d[j] = Vec::sub(Vec::load(data + i + j * Vec::kLanes), Vec::set1(max));
    tempered.clamp(d);
    tempered.exp(d, e);
    std::memcpy(weights + i, &e, sizeof(e));
  }
}

// +inf elements weigh alike, the others nothing.
template <class T>
inline void weights_at_infinity(const T* data, int64_t columns, float* weights) {
  const float unit = static_cast<float>(kExpUnit);
  for (int64_t i = 0; i < columns; ++i)
    weights[i] = to_float(data[i]) == std::numeric_limits<float>::infinity() ? unit : 0.0f;
}

STEER_INLINE double sum_of(const float* weights, int64_t columns) {
  double sums[8] = {};
  for (int64_t i = 0; i < columns; i += 8)
    for (int j = 0; j < 8; ++j) sums[j] += weights[i + j];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

struct Search {
  double target;
  bool to_the_end;  // look at every element, for the last one with a mass
  double running = 0.0;
  int64_t at = -1;

  // Looks through columns [first, first + columns); true if the sum passes the target there.
  STEER_INLINE bool step(const float* weights, int64_t first, int64_t columns) {
    const double sum = sum_of(weights, columns);
    const bool here = running + sum > target;
    if (here || to_the_end) {
      double inside = running;
      for (int64_t i = 0; i < columns; ++i) {
        if (weights[i] == 0.0f) continue;
        at = first + i;
        if ((inside += weights[i]) > target) break;
      }
    }
    running += sum;
    return here;
  }
};

template <class T>
bool search_tile(const Tile<T>& tile, float max, const Exponential<true>& tempered,
                 Search& search) {
  const bool infinite = max == std::numeric_limits<float>::infinity();
  float weights[kBlock];
  for (int64_t i = 0; i < tile.body_columns; i += kBlock) {
    const int64_t columns = std::min(kBlock, tile.body_columns - i);
    if (infinite) weights_at_infinity(tile.body + i, columns, weights);
    else weights_of(tile.body + i, columns, max, tempered, weights);
    if (search.step(weights, i, columns)) return true;
  }
  if (tile.tail_columns == 0) return false;
  if (infinite) weights_at_infinity(tile.tail, kStep, weights);
  else weights_of(tile.tail, kStep, max, tempered, weights);
  return search.step(weights, tile.body_columns, kStep);
}

template <class T>
Found locate(const LogitStatsParams& params, int64_t row, int64_t column, float max,
             float inverse_temperature, double target) {
  const T* data = static_cast<const T*>(params.logits) + row * params.row_stride + column;
  const Tile<T> tile(data, std::min(kTile, params.vocab - column));
  const Exponential<true> tempered(inverse_temperature);
  Search search{target * kExpUnit, false};
  if (!search_tile(tile, max, tempered, search)) {
    // Rounding left the sum short: seldom, so a second pass is fine.
    search = {target * kExpUnit, true};
    search_tile(tile, max, tempered, search);
  }
  return {column + search.at, to_float(data[search.at])};
}

inline Found locate_of_dtype(const LogitStatsParams& params, int64_t row, int64_t column, float max,
                             float inverse_temperature, double target) {
  switch (params.dtype) {
    case DType::kFloat32:
      return locate<float>(params, row, column, max, inverse_temperature, target);
    case DType::kBFloat16:
      return locate<BFloat16>(params, row, column, max, inverse_temperature, target);
    default:
      return locate<Half>(params, row, column, max, inverse_temperature, target);
  }
}
