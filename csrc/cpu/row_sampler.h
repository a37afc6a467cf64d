// One row under a temperature and cuts: what is kept, what it weighs, and a draw from it.
//
// Made from what the reduction of the row left behind (logit_stats.h). Where all is kept, the sums of
// the tiles tell the total, and lead to the tile of a token; where something is cut, the kept prefix of
// the ranking is found when it is first asked for, and kept.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/sample_logits_params.h"
#include "cpu/logit_stats.h"
#include "cpu/ranking.h"

namespace steer {

// For the reduction of the rows: with lists that decide the cuts of most rows without another read,
// and with sums of the tiles under the temperature where they are needed.
LogitStatsWorkspace sampling_workspace(const SampleLogitsParams& params);

struct Choice {
  int64_t token;
  double logprob;
};

class RowSampler {
 public:
  // All of these must outlive it.
  RowSampler(const SampleLogitsParams& params, const LogitStatsWorkspace& work,
             const LogitStatsKernels& kernels, const RowSummary& summary, int64_t row);

  // A token by a number in [0, 1). Token 0 and NaN for a row that is not valid.
  Choice choose(double uniform);

  // Of a valid row: the log-probability of a column's element, -inf where it is cut. Greedy rows have
  // that of the raw softmax, as `choose` gives it.
  double logprob(int64_t column);

  // What is kept of a valid row of which something is cut: columns, in their order, and the
  // logarithms of their weights.
  using Elements = std::vector<std::pair<int64_t, double>>;
  const Elements& kept();
  // The sum of the weights of what is kept; the largest is 1.
  double total();

  float max() const { return max_; }

 private:
  float logit(int64_t column) const;
  double exponent(float x) const;
  std::vector<double> tile_masses() const;
  double share_of_nucleus(Ranking& ranking, int64_t limit) const;
  int64_t count_kept(Ranking& ranking);
  Choice choose_by_tile(double uniform);
  Choice choose_kept(double uniform);

  const SampleLogitsParams& params_;
  const LogitStatsWorkspace& work_;
  const LogitStatsKernels& kernels_;
  const RowSummary& summary_;
  int64_t row_;
  float max_;
  double total_ = -1.0;  // not known yet
  Elements kept_;
  // Where the kept prefix ends only because what follows has no weight in double precision: the lowest
  // value that top_k keeps.
  float weightless_from_;
};

}  // namespace steer
