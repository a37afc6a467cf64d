// step_update_, CPU: one token of every row into the shared transcript, in place.
//
// Mathematics: per row, append the token; add its score to the step's sum where its class counts;
//   close the step where its text holds the delimiter and has said something, where it is max_step
//   long, or where the token ends the answer (core/step_update_row.h).
// Data movement: one entry of each state vector, one or two bytes of the class table, one token of
//   the transcript written and the one before it read.
// Bytes: about 120 a row; a batch of 256 rows is 30 kB, less than starting a thread costs.
// Synchronisation: none; rows are independent, and one thread takes them all. Values are read and
//   checked in a loop of their own, so that a bad one leaves every row unchanged, and what was
//   checked is what is used.
#include "cpu/step_update.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "core/step_update_row.h"

namespace steer {
namespace {

[[noreturn]] void refuse(const char* name, int64_t row, int64_t value, const std::string& range) {
  throw std::invalid_argument(std::string(name) + "[" + std::to_string(row) + "] must be in " +
                              range + ", got " + std::to_string(value));
}

void check_row(const StepUpdateParams& params, int64_t row, const StepRow& held) {
  const StepRowFault fault = held.fault(params);
  if (fault == StepRowFault::kNone) return;
  const std::string capacity = std::to_string(params.capacity);
  switch (fault) {
    case StepRowFault::kNone: return;
    case StepRowFault::kToken:
      refuse("token", row, held.token,
             "0.." + std::to_string(params.vocab - 1) + " (token_class)");
    case StepRowFault::kLength:
      refuse("length", row, held.length, "0.." + capacity + " (transcript)");
    case StepRowFault::kStepStart:
      refuse("step_start", row, held.step_start,
             "0.." + std::to_string(held.length) + " (length)");
    case StepRowFault::kLimit:
      refuse("limit", row, held.limit, "0.." + capacity + " (transcript)");
  }
}

}  // namespace

void step_update_cpu(const StepUpdateParams& params) {
  constexpr int64_t kFew = 16;  // rows that need no allocation
  StepRow few[kFew];
  std::vector<StepRow> many(params.rows > kFew ? params.rows : 0);
  StepRow* const held = params.rows > kFew ? many.data() : few;
  for (int64_t row = 0; row < params.rows; ++row) {
    held[row] = StepRow(params, row);
    if (held[row].open) check_row(params, row, held[row]);
  }
  for (int64_t row = 0; row < params.rows; ++row)
    if (held[row].open) step_update_row(params, row, held[row]);
}

}  // namespace steer
