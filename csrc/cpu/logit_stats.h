// logit_stats on the CPU: entry point, and what the driver shares with the tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/float16.h"
#include "core/logit_stats_params.h"
#include "core/softmax_accumulator.h"
#include "core/topk_queue.h"
#include "cpu/parallel.h"

namespace steer {

// Columns per tile: 16 KiB of float, so that the passes after the first find the tile in L1. The
// tile is also the unit of the reduction: its size is fixed, which makes every result independent
// of the number of threads and of the other rows.
constexpr int64_t kTile = 4096;

// One row after another in the calling thread.
void serial_for(int64_t count, int64_t grain, const RangeBody& body);

// Fills the six outputs. Arguments must already be checked. Throws std::invalid_argument only for
// a bad STEER_CPU_ISA, and that before any work.
void logit_stats_cpu(const LogitStatsParams& params, const ParallelFor& parallel_for);

// Per-call scratch. Tasks are tiles numbered row by row. `partials` has one entry per task. A
// thread keeps one queue for each run of consecutive tiles of a row and leaves it at the slot of
// the run's first task; `counts` is 0 at all other slots.
struct LogitStatsWorkspace {
  // The lists hold `list_length` elements, at least params.k. With a gap above 0 they hold, beyond
  // the first params.k, only what is at most that far below the largest.
  LogitStatsWorkspace(const LogitStatsParams& params, int list_length, double gap = 0.0);

  // Asks for sum exp((x - m) / temperature) of every tile too, m being the tile's maximum.
  void temper(double temperature);

  int64_t tiles_per_row;
  int64_t tasks;
  int k;              // length of the lists
  int required;       // ranks that a list holds whatever their values
  float gap;
  std::vector<SoftmaxAccumulator> partials;
  std::vector<int> counts;
  std::unique_ptr<float[]> values;  // [tasks, k], left uninitialised: most slots stay unused
  std::unique_ptr<int64_t[]> ids;
  float inverse_temperature = 1.0f;
  std::vector<double> masses;  // [tasks]; empty unless asked for

  void store(int64_t task, const TopKQueue& queue);
};

// An element of a row.
struct Found {
  int64_t column;
  float logit;
};

// What is compiled once per instruction set (kernels.h).
struct LogitStatsKernels {
  // Reduces tasks [begin, end).
  void (*reduce_tasks)(const LogitStatsParams&, LogitStatsWorkspace&, int64_t begin, int64_t end);
  // The first element of the tile at `column` at which the running sum of
  // exp((x - max) * inverse_temperature) exceeds `target`; the last one with a mass where rounding
  // leaves the sum short. The tile must have a mass and `max` must be its maximum.
  Found (*locate)(const LogitStatsParams&, int64_t row, int64_t column, float max,
                  float inverse_temperature, double target);
};

// The steps of logit_stats_cpu, for the operators that build on it.
struct RowSummary {
  SoftmaxAccumulator total;
  TopKQueue queue;
};
// Tasks below which starting a thread costs more than it brings.
int64_t grain_of_tasks(const LogitStatsParams& params);
void reduce_tiles(const LogitStatsParams& params, LogitStatsWorkspace& work,
                  const LogitStatsKernels& kernels, const ParallelFor& parallel_for);
RowSummary summarise_row(const LogitStatsWorkspace& work, int64_t row);
void write_row(const LogitStatsParams& params, int64_t row, const RowSummary& summary);

}  // namespace steer
