// sample_logits, CPU driver: logit_stats, and then one token per row from what it left.
//
// Mathematics: with w = exp((x - m) / temperature) on the kept elements and 0 elsewhere, the token
//   is the first column, in column order, at which the running sum of w exceeds uniform * sum w.
//   All that top_k, top_p and min_p keep is a prefix of the ranking (value descending, id
//   ascending), as in transformers, whose order of warpers this is: temperature, top_k (ties of the
//   k-th stay), top_p over what is left, min_p.
// Data movement: where all is kept, two levels. The sums of the tiles, which the one read of the
//   row left behind, lead to the tile of the token; that tile alone is read again. Where something
//   is cut, the kept prefix comes from the row's top-k list if that covers it, without another
//   read, and otherwise from a sort (row_sampler.h, ranking.h): the result is exact either way.
// Bytes: as logit_stats, plus one tile; with the sort, the row once more and 8 bytes an element.
// Synchronisation: as logit_stats. A row's token depends on its own values and uniform only.
// Precision: sums of tiles are float over lanes and double across; prefixes are double throughout.
#include "cpu/sample_logits.h"

#include "cpu/kernels.h"
#include "cpu/row_sampler.h"

namespace steer {
namespace {

constexpr int64_t kGrainRows = 4;  // choosing a token takes microseconds

}  // namespace

void sample_logits_cpu(const SampleLogitsParams& params, const ParallelFor& parallel_for) {
  const LogitStatsParams& stats = params.stats;
  const LogitStatsKernels& kernels = current_kernels().logit_stats;
  if (stats.rows == 0) return;
  LogitStatsWorkspace work = sampling_workspace(params);
  reduce_tiles(stats, work, kernels, parallel_for);
  parallel_for(stats.rows, kGrainRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const RowSummary summary = summarise_row(work, row);
      write_row(stats, row, summary);
      RowSampler sampler(params, work, kernels, summary, row);
      const Choice choice = sampler.choose(params.uniform[row]);
      params.token[row] = choice.token;
      params.logprob[row] = static_cast<float>(choice.logprob);
    }
  });
}

}  // namespace steer
