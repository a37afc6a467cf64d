// What step_update_ does to one row; the same lines run on the CPU and on the GPU.
#pragma once

#include "core/host_device.h"
#include "core/step_update_params.h"

namespace steer {

enum class StepRowFault { kNone, kToken, kLength, kStepStart, kLimit };

// What a row is indexed by, read once: what is checked has to be what is used, and the tensors of a
// caller may change at any moment.
struct StepRow {
  int64_t token, length, step_start, limit;
  uint8_t flag;
  bool open;  // a frozen or finished row stays as it is, whatever its token

  StepRow() = default;
  STEER_HOST_DEVICE StepRow(const StepUpdateParams& p, int64_t row)
      : token(p.token[row]),
        length(p.length[row]),
        step_start(p.step_start[row]),
        limit(p.limit[row]),
        flag(p.flag[row]),
        open((p.active == nullptr || p.active[row]) && (flag & kFinished) == 0) {}

  STEER_HOST_DEVICE StepRowFault fault(const StepUpdateParams& p) const {
    if (token < 0 || token >= p.vocab) return StepRowFault::kToken;
    if (length < 0 || length > p.capacity) return StepRowFault::kLength;
    if (step_start < 0 || step_start > length) return StepRowFault::kStepStart;
    if (limit < 0 || limit > p.capacity) return StepRowFault::kLimit;
    return StepRowFault::kNone;
  }
};

// Whether the step's text, of which `last` is the newest token, ends in a token with the delimiter,
// or one that completes it: a token that begins with the second half does so where the one before
// it ends with the first. A delimiter that the one before held alone, when nothing had been said,
// has passed.
STEER_HOST_DEVICE inline bool holds_delimiter(uint8_t last, uint8_t before) {
  if ((last & kHoldsDelimiter) != 0) return true;
  return (last & kStartsWithHalf) != 0 && (before & kEndsWithHalf) != 0;
}

// For a row that is open and without fault.
STEER_HOST_DEVICE inline void step_update_row(const StepUpdateParams& p, int64_t row,
                                              const StepRow& r) {
  const int64_t position = r.length;
  if (position >= r.limit) {  // no room: the token is not taken
    p.flag[row] = r.flag | kFull;
    return;
  }
  const bool opens = (r.flag & kStepClosed) != 0;
  const int64_t start = opens ? position : r.step_start;
  const double sum = opens ? 0.0 : p.score_sum[row];
  const int64_t count = opens ? 0 : p.score_count[row];
  uint8_t flag = opens ? 0 : static_cast<uint8_t>(r.flag & kSaid);

  int64_t* const text = p.transcript + row * p.transcript_stride;
  const uint8_t last = p.token_class[r.token];
  uint8_t before = 0;
  if (position > start) {
    const int64_t id = text[position - 1];
    if (id >= 0 && id < p.vocab) before = p.token_class[id];
  }
  if ((last & kSaysSomething) != 0) flag |= kSaid;
  const bool capped = position + 1 - start >= p.max_step;
  const bool delimited = holds_delimiter(last, before) && (flag & kSaid) != 0;
  if ((last & kEndOfText) != 0)
    flag |= kStepClosed | kEnded;
  else if (capped || delimited)
    flag |= kStepClosed;
  if ((flag & kEnded) == 0 && position + 1 >= r.limit) flag |= kFull;

  const bool counts = (last & kCounts) != 0;
  text[position] = r.token;
  p.length[row] = position + 1;
  p.step_start[row] = start;
  p.score_sum[row] = counts ? sum + static_cast<double>(p.score[row]) : sum;
  p.score_count[row] = count + (counts ? 1 : 0);
  p.flag[row] = flag;
}

}  // namespace steer
