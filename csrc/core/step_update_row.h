// What step_update_ does to one row; the same lines run on the CPU and on the GPU.
#pragma once

#include "core/host_device.h"
#include "core/step_update_params.h"

namespace steer {

enum class StepRowFault { kNone, kToken, kLength, kStepStart, kLimit };

// A frozen or finished row stays as it is, whatever its token.
STEER_HOST_DEVICE inline bool step_row_is_open(const StepUpdateParams& p, int64_t row) {
  return (p.active == nullptr || p.active[row]) && (p.flag[row] & kFinished) == 0;
}

STEER_HOST_DEVICE inline StepRowFault step_row_fault(const StepUpdateParams& p, int64_t row) {
  if (p.token[row] < 0 || p.token[row] >= p.vocab) return StepRowFault::kToken;
  if (p.length[row] < 0 || p.length[row] > p.capacity) return StepRowFault::kLength;
  if (p.step_start[row] < 0 || p.step_start[row] > p.length[row]) return StepRowFault::kStepStart;
  if (p.limit[row] < 0 || p.limit[row] > p.capacity) return StepRowFault::kLimit;
  return StepRowFault::kNone;
}

// Whether the step's text, of which `last` is the newest token, ends in a token with the delimiter,
// or one that completes it. A token that only begins with the second half is looked at together
// with the one before it: the two hold the delimiter if that one ends with the first half, or holds
// it whole (and did not close the step, because nothing had been said).
STEER_HOST_DEVICE inline bool holds_delimiter(uint8_t last, uint8_t before) {
  if ((last & kHoldsDelimiter) != 0) return true;
  return (last & kStartsWithHalf) != 0 && (before & (kEndsWithHalf | kHoldsDelimiter)) != 0;
}

// For a row that is open and without fault.
STEER_HOST_DEVICE inline void step_update_row(const StepUpdateParams& p, int64_t row) {
  const int64_t position = p.length[row];
  uint8_t flag = p.flag[row];
  if (position >= p.limit[row]) {  // no room: the token is not taken
    p.flag[row] = flag | kFull;
    return;
  }
  const bool opens = (flag & kStepClosed) != 0;
  const int64_t start = opens ? position : p.step_start[row];
  const double sum = opens ? 0.0 : p.score_sum[row];
  const int64_t count = opens ? 0 : p.score_count[row];
  flag = opens ? 0 : static_cast<uint8_t>(flag & kSaid);

  int64_t* const text = p.transcript + row * p.transcript_stride;
  const int64_t token = p.token[row];
  const uint8_t last = p.token_class[token];
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
  if ((flag & kEnded) == 0 && position + 1 >= p.limit[row]) flag |= kFull;

  const bool counts = (last & kCounts) != 0;
  text[position] = token;
  p.length[row] = position + 1;
  p.step_start[row] = start;
  p.score_sum[row] = counts ? sum + static_cast<double>(p.score[row]) : sum;
  p.score_count[row] = count + (counts ? 1 : 0);
  p.flag[row] = flag;
}

}  // namespace steer
