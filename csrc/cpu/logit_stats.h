// logit_stats on the CPU: entry point, and what the driver shares with the per-ISA kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/float16.h"
#include "core/logit_stats_params.h"
#include "core/softmax_accumulator.h"
#include "core/topk_queue.h"
#include "cpu/isa.h"

namespace steer {

// Columns per tile: 16 KiB of float, so that the passes after the first find the tile in L1. The
// tile is also the unit of the reduction: its size is fixed, which makes every result independent
// of the number of threads and of the other rows.
constexpr int64_t kTile = 4096;

// Runs body(begin, end) over pieces of [0, count), each of at least `grain` items where possible.
using RangeBody = std::function<void(int64_t, int64_t)>;
using ParallelFor = std::function<void(int64_t count, int64_t grain, const RangeBody& body)>;

// One row after another in the calling thread.
void serial_for(int64_t count, int64_t grain, const RangeBody& body);

// Fills the six outputs. Arguments must already be checked. Throws std::invalid_argument only for
// a bad STEER_CPU_ISA, and that before any work.
void logit_stats_cpu(const LogitStatsParams& params, const ParallelFor& parallel_for);

// Per-call scratch. Tasks are tiles numbered row by row. `partials` has one entry per task. A
// thread keeps one queue for each run of consecutive tiles of a row and leaves it at the slot of
// the run's first task; `counts` is 0 at all other slots.
struct LogitStatsWorkspace {
  explicit LogitStatsWorkspace(const LogitStatsParams& params);

  int64_t tiles_per_row;
  int64_t tasks;
  int k;
  std::vector<SoftmaxAccumulator> partials;
  std::vector<int> counts;
  std::unique_ptr<float[]> values;  // [tasks, k], left uninitialised: most slots stay unused
  std::unique_ptr<int64_t[]> ids;

  void store(int64_t task, const TopKQueue& queue);
};

// Reduces tasks [begin, end). One definition per ISA, each in its own translation unit.
using ReduceTasks = void (*)(const LogitStatsParams&, LogitStatsWorkspace&, int64_t, int64_t);
void logit_stats_tasks_portable(const LogitStatsParams&, LogitStatsWorkspace&, int64_t, int64_t);
#if STEER_X86_KERNELS
void logit_stats_tasks_avx2(const LogitStatsParams&, LogitStatsWorkspace&, int64_t, int64_t);
void logit_stats_tasks_avx512(const LogitStatsParams&, LogitStatsWorkspace&, int64_t, int64_t);
#endif

}  // namespace steer
