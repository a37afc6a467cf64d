// The token of a row that top_k, top_p or min_p cuts, from its list.
//
// Mathematics: with w = exp((x - M) / temperature), all that the cuts keep is a prefix of the ranking. The
//   list, which has the first ranks, decides it where its last is not kept: nothing beyond it is then.
//   The token is the first kept column at which the running sum of w, in column order, exceeds uniform
//   times the whole. As triton/cuts.py, where other rows are searched.
// Precision: double throughout.
#pragma once

#include <cstdint>

#include "cuda/row_list.h"

namespace steer {

// Of a lane: ranks `lane` and `lane + 32`.
struct KeptRanks {
  double log_weight[2], weight[2];  // -inf and 0 where not kept
  bool decided;
};

__device__ __forceinline__ double exponent_of(float x, float top, double inverse) {
  return x == top ? 0.0 : (static_cast<double>(x) - top) * inverse;
}

// The sum over lower ranks, `before` that of earlier calls; adds all of them to it.
__device__ __forceinline__ double ranks_before(double weight, double& before, int lane) {
  double through = weight;
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    const double other = __shfl_up_sync(~0u, through, apart);
    if (lane >= apart) through += other;
  }
  const double found = before + through - weight;
  before += __shfl_sync(~0u, through, 31);
  return found;
}

// `row_total`, the sum of all weights of the row, is looked at where top_p cuts and top_k does not.
__device__ __forceinline__ KeptRanks kept_ranks(const RowsParams& p, const ListSpace& space,
                                                float top, double row_total, int lane) {
  KeptRanks of;
  const bool cuts_k = p.top_k > 0 && p.top_k < p.vocab;
  const float last = value_of(space.keys[p.length - 1]);
  const float kth = value_of(space.keys[cuts_k ? min(p.top_k, p.length) - 1 : 0]);
  const float least_value = cuts_k && p.top_k <= p.length ? kth : -INFINITY;
  double total = 0.0, before[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int rank = lane + 32 * i;
    const float x = rank < p.length ? value_of(space.keys[rank]) : -INFINITY;
    of.log_weight[i] = x > -INFINITY ? exponent_of(x, top, p.inverse) : -INFINITY;
    of.weight[i] = exp(of.log_weight[i]);
    if (!(x >= least_value && of.weight[i] > 0.0)) of.weight[i] = 0.0;
    before[i] = ranks_before(of.weight[i], total, lane);
  }
  const double bound = p.top_p < 1.0 ? p.top_p * (cuts_k ? total : row_total) : INFINITY;
  bool last_kept = false;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool kept = of.weight[i] > 0.0 && of.log_weight[i] >= p.least && before[i] < bound;
    if (!kept) of.log_weight[i] = -INFINITY, of.weight[i] = 0.0;
    last_kept = last_kept || (kept && lane + 32 * i == p.length - 1);
  }
  const bool whole = p.length == p.vocab || last == -INFINITY;
  const bool total_known = p.top_p >= 1.0 || !cuts_k || (p.top_k < p.length && last < kth);
  of.decided = whole || (!__any_sync(~0u, last_kept) && total_known);
  return of;
}

// Stores the token and its log-probability, or -1 where the list does not decide.
__device__ __forceinline__ void store_cut_token(const RowsParams& p, ListSpace& space, int row,
                                                float top, double row_total, double uniform,
                                                int lane) {
  const KeptRanks of = kept_ranks(p, space, top, row_total, lane);
  double* const weights = reinterpret_cast<double*>(space.groups);  // of no more use since the list was ranked
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (lane + 32 * i < p.length) weights[lane + 32 * i] = of.weight[i];
  __syncwarp();
  // Sums over lower columns and over all, in order of rank: so that of the last column is the whole.
  int column[2];
  double through[2] = {}, total = 0.0;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    column[i] = lane + 32 * i < p.length ? column_of(space.keys[lane + 32 * i]) : INT_MAX;
#pragma unroll 1
  for (int rank = 0; rank < p.length; ++rank) {
    const double weight = weights[rank];
    const int other = column_of(space.keys[rank]);
    total += weight;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (other <= column[i]) through[i] += weight;
  }
  int first = INT_MAX, last = -1;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (of.weight[i] > 0.0) last = max(last, column[i]);
    if (of.weight[i] > 0.0 && through[i] > uniform * total) first = min(first, column[i]);
  }
  first = __reduce_min_sync(~0u, first), last = __reduce_max_sync(~0u, last);
  const int chosen = first != INT_MAX ? first : last;  // else rounding left the sum short
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (column[i] != chosen) continue;
    p.token[row] = of.decided ? chosen : -1;
    p.logprob[row] = static_cast<float>(of.log_weight[i] - log(total));
  }
}

}  // namespace steer
