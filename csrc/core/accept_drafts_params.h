// Arguments of accept_drafts as plain pointers: those of sample_logits, the drafts and their logits.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/sample_logits_params.h"

namespace steer {

struct AcceptDraftsParams {
  SampleLogitsParams large;         // its token and logprob are those that stand at the places
  const int64_t* drafts = nullptr;  // [rows], each a column below vocab, or -1 for no draft

  const void* draft_logits = nullptr;  // [rows, vocab], last dimension contiguous
  DType draft_dtype = DType::kFloat32;
  int64_t draft_row_stride = 0;  // in elements
  bool informed = false;         // there are draft_logits

  float* draft_logprob = nullptr;  // [rows]
  bool* accepted = nullptr;        // [rows]

  // Whether drafts are judged by the ratio of both distributions.
  bool by_ratio() const { return informed && !large.greedy(); }
};

}  // namespace steer
