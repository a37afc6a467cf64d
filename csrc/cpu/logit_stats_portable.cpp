// logit_stats for any machine; see logit_stats_tile.h for the algorithm.
#include "cpu/logit_stats.h"

#include <cstring>
#include <limits>

namespace steer {
namespace {
#include "cpu/simd_portable.h"
#include "cpu/vec_exp.h"

#include "cpu/logit_stats_tile.h"
}  // namespace

void logit_stats_tasks_portable(const LogitStatsParams& params, LogitStatsWorkspace& work,
                                int64_t begin, int64_t end) {
  reduce_tasks_of_dtype(params, work, begin, end);
}

}  // namespace steer
