// logit_stats, CPU driver: split, reduce, merge.
//
// Mathematics: per row, m = max x, S = sum exp(x-m), T = sum (x-m) exp(x-m), and the k largest
//   elements; lse = m + log S, entropy = log S - T/S (core/softmax_accumulator.h).
// Data movement: every row is cut into tiles of kTile columns. A tile is read from memory once, by
//   the pass that sums it (logit_stats_tile.h), and blocks of it from L1 by the top-k pass
//   (topk_tile.h).
// Bytes: vocab * sizeof(dtype) per row, plus about 24 bytes of scratch per tile.
// Synchronisation: two parallel loops and the barrier between them. Tiles are independent tasks,
//   so the vocabulary of a single row is shared by the threads too. The second loop merges the
//   tiles of each row in column order. As neither tile borders nor order depend on the number of
//   threads or on other rows, results are bitwise the same for any of them.
#include "cpu/logit_stats.h"

#include <limits>

#include "cpu/kernels.h"

namespace steer {
namespace {

// Columns below which starting a thread costs more than it brings (a few microseconds of work).
constexpr int64_t kGrainColumns = 4 * kTile;

void write_invalid_row(const LogitStatsParams& params, int64_t row) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  params.max_logit[row] = params.lse[row] = params.entropy[row] = nan;
  params.valid[row] = false;
  for (int i = 0; i < params.k; ++i) {
    params.topk_logits[row * params.k + i] = nan;
    params.topk_ids[row * params.k + i] = i;  // in range, so that a gather by id stays safe
  }
}

}  // namespace

LogitStatsWorkspace::LogitStatsWorkspace(const LogitStatsParams& params, int list_length,
                                         double gap_)
    : tiles_per_row((params.vocab + kTile - 1) / kTile),
      tasks(params.rows * tiles_per_row),
      k(list_length),
      required(gap_ > 0.0 ? params.k : list_length),
      gap(gap_ < std::numeric_limits<float>::max() ? static_cast<float>(gap_)
                                                   : std::numeric_limits<float>::infinity()),
      partials(tasks),
      counts(tasks, 0),
      values(new float[tasks * k]),
      ids(new int64_t[tasks * k]) {}

void LogitStatsWorkspace::temper(double temperature) {
  // So that neither 0 * inf nor inf * 0 comes up; and the difference that gives a weight of 0, up to
  // 88 times the temperature, has to be a float as well (vec_exp_avx512.h clamps there).
  const double largest = std::numeric_limits<float>::max();
  const double smallest = 3e-37;
  inverse_temperature =
      static_cast<float>(std::min(largest, std::max(smallest, 1.0 / temperature)));
  masses.assign(tasks, 0.0);
}

void LogitStatsWorkspace::store(int64_t task, const TopKQueue& queue) {
  counts[task] = queue.size();
  for (int i = 0; i < queue.size(); ++i) {
    values[task * k + i] = queue.value(i);
    ids[task * k + i] = queue.id(i);
  }
}

void serial_for(int64_t count, int64_t /*grain*/, const RangeBody& body) {
  if (count > 0) body(0, count);
}

int64_t grain_of_tasks(const LogitStatsParams& params) {
  const int64_t task_columns = std::min(params.vocab, kTile);
  return std::max<int64_t>(1, kGrainColumns / task_columns);
}

void reduce_tiles(const LogitStatsParams& params, LogitStatsWorkspace& work,
                  const LogitStatsKernels& kernels, const ParallelFor& parallel_for) {
  parallel_for(work.tasks, grain_of_tasks(params), [&](int64_t begin, int64_t end) {
    kernels.reduce_tasks(params, work, begin, end);
  });
}

RowSummary summarise_row(const LogitStatsWorkspace& work, int64_t row) {
  RowSummary summary{{}, TopKQueue(work.k)};
  const int64_t first = row * work.tiles_per_row;
  for (int64_t task = first; task < first + work.tiles_per_row; ++task) {
    summary.total.merge(work.partials[task]);
    for (int i = 0; i < work.counts[task]; ++i)
      summary.queue.push(work.values[task * work.k + i], work.ids[task * work.k + i]);
  }
  return summary;
}

void write_row(const LogitStatsParams& params, int64_t row, const RowSummary& summary) {
  const SoftmaxAccumulator& total = summary.total;
  const TopKQueue& queue = summary.queue;
  if (!total.valid()) {
    write_invalid_row(params, row);
    return;
  }
  params.max_logit[row] = queue.value(0);  // equal to total.max, with the sign of its own zero
  params.lse[row] = static_cast<float>(total.lse());
  params.entropy[row] = static_cast<float>(total.entropy());
  params.valid[row] = true;
  for (int i = 0; i < params.k; ++i) {
    params.topk_logits[row * params.k + i] = queue.value(i);
    params.topk_ids[row * params.k + i] = queue.id(i);
  }
}

void logit_stats_cpu(const LogitStatsParams& params, const ParallelFor& parallel_for) {
  const LogitStatsKernels& kernels = current_kernels().logit_stats;
  if (params.rows == 0) return;
  LogitStatsWorkspace work(params, params.k);
  reduce_tiles(params, work, kernels, parallel_for);
  parallel_for(params.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) write_row(params, row, summarise_row(work, row));
  });
}

}  // namespace steer
