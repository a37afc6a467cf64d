// Arguments and bit names of step_update_, shared by the CPU and the CUDA kernel.
#pragma once

#include <cstdint>

namespace steer {

// What a token is to the step it stands in; one byte a token, in a table over the vocabulary. The
// delimiter has at most two characters, so it lies within one token or across two.
enum TokenClass : uint8_t {
  kHoldsDelimiter = 1,  // its text holds the whole delimiter
  kStartsWithHalf = 2,  // its text begins with the delimiter's second character
  kEndsWithHalf = 4,    // its text ends with the delimiter's first character
  kSaysSomething = 8,   // its text holds a letter or a digit
  kCounts = 16,         // its score counts
  kEndOfText = 32,      // it ends the answer
};

// State of a row; all bits are those of the last token, kSaid those of the open step.
enum RowFlag : uint8_t {
  kStepClosed = 1,  // the last token closed the step: the next one opens another
  kEnded = 2,       // the last token ends the answer
  kFull = 4,        // the row's limit is reached
  kSaid = 8,        // the step has held a letter or a digit
};
constexpr uint8_t kFinished = kEnded | kFull;

struct StepUpdateParams {
  int64_t* transcript = nullptr;  // [rows, capacity], last dimension contiguous
  int64_t transcript_stride = 0;  // in elements
  int64_t capacity = 0;
  int64_t* length = nullptr;       // [rows]: tokens of the transcript
  int64_t* step_start = nullptr;   // [rows]: position of the open step's first token
  double* score_sum = nullptr;     // [rows]: of the open step
  int64_t* score_count = nullptr;  // [rows]
  uint8_t* flag = nullptr;         // [rows]: RowFlag

  const int64_t* limit = nullptr;  // [rows]: most tokens of the transcript
  const int64_t* token = nullptr;  // [rows]
  const float* score = nullptr;    // [rows]
  const uint8_t* token_class = nullptr;  // [vocab]: TokenClass
  const bool* active = nullptr;          // [rows], or null: every row is
  int64_t rows = 0;
  int64_t vocab = 0;
  int64_t max_step = 0;  // tokens after which a step closes in any case
};

}  // namespace steer
