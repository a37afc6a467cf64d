// The elements of a row in order of rank: value descending, id ascending, as many as are asked for.
//
// It starts with the top-k list that the reduction of the row left. Where that list was kept to a gap
// below the largest element, what lies beyond the gap has no rank here either. Only when a rank beyond it is
// asked for are the row's elements turned into sortable 64-bit keys; they are then put in order in
// growing steps (selection of the next ranks, then a sort of those alone), up to the whole row.
// Elements at -inf have no probability and no rank here.
#pragma once

#include <cstdint>
#include <vector>

#include "core/logit_stats_params.h"
#include "core/topk_queue.h"

namespace steer {

class Ranking {
 public:
  // `list` must outlive the ranking. Row and list hold no NaN.
  Ranking(const LogitStatsParams& params, int64_t row, const TopKQueue& list, int required,
          float gap);

  // Whether there is an element of this rank, counted from 0. Sorts more of the row if needed.
  bool reach(int64_t rank);

  // For ranks that `reach` has confirmed.
  float value(int64_t rank) const;
  int64_t id(int64_t rank) const;

 private:
  void make_keys();
  void sort_up_to(int64_t count);

  const LogitStatsParams& params_;
  int64_t row_;
  const TopKQueue& list_;
  int64_t listed_;               // ranks that the list answers for
  bool list_is_all_;             // no element of interest lies beyond the list
  std::vector<uint64_t> keys_;   // ascending keys are descending ranks; sorted up to sorted_
  int64_t sorted_ = 0;
};

}  // namespace steer
