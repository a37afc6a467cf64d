// From torch tensors to the parameters of step_update_, for the CPU and for CUDA.
#pragma once

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "bind/tensors.h"
#include "core/memory_overlap.h"
#include "core/step_update_params.h"

namespace steer {

// A dense vector, as the state of step_update_ has to be.
template <typename T>
T* vector_pointer(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size,
                  const DeviceOf& device) {
  check_vector(name, tensor, dtype, size, device, "transcript");
  STD_TORCH_CHECK(size <= 1 || tensor.stride(0) == 1, name, " must be contiguous, got stride ",
                  tensor.stride(0));
  return static_cast<T*>(writable(name, tensor));
}

// Written tensors of step_update_ share no byte with each other or with one that is read. Vectors
// are dense, so ranges tell, but for one that lies in the gap between two rows of the transcript.
inline void check_state_apart(const StepUpdateParams& p) {
  const auto vector = [&](const char* name, const void* data, int64_t size, int64_t bytes) {
    return ByteRange(name, data, size * bytes);
  };
  const ByteRange ranges[] = {
      vector("length", p.length, p.rows, 8),
      vector("step_start", p.step_start, p.rows, 8),
      vector("score_sum", p.score_sum, p.rows, 8),
      vector("score_count", p.score_count, p.rows, 8),
      vector("flag", p.flag, p.rows, 1),
      vector("limit", p.limit, p.rows, 8),
      vector("token", p.token, p.rows, 8),
      vector("score", p.score, p.rows, 4),
      vector("token_class", p.token_class, p.vocab, 1),
      vector("active", p.active, p.active == nullptr ? 0 : p.rows, 1),
  };
  constexpr int kWritten = 5, kAll = 10;
  const auto refuse = [](const ByteRange& written, const ByteRange& other) {
    throw std::invalid_argument(overlap_sentence(written, other));
  };
  for (int a = 0; a < kWritten; ++a)
    for (int b = a + 1; b < kAll; ++b)
      if (ranges[a].meets(ranges[b])) refuse(ranges[a], ranges[b]);
  const int64_t row_bytes = p.capacity * 8, stride = p.transcript_stride * 8;
  const int64_t spanned = p.rows == 0 ? 0 : (p.rows - 1) * stride + row_bytes;
  const ByteRange transcript("transcript", p.transcript, row_bytes == 0 ? 0 : spanned);
  for (const ByteRange& range : ranges) {
    if (!transcript.meets(range)) continue;
    // The last row that begins before the range ends, and whether it reaches into the range.
    const int64_t ends = static_cast<int64_t>(range.end - transcript.begin);
    const int64_t row = p.rows <= 1 ? 0 : std::min((ends - 1) / stride, p.rows - 1);
    const uintptr_t begin = transcript.begin + row * stride;
    if (range.meets({"", reinterpret_cast<const void*>(begin), row_bytes}))
      refuse(transcript, range);
  }
}

inline StepUpdateParams step_update_params(
    const Tensor& transcript, const Tensor& length, const Tensor& step_start,
    const Tensor& score_sum, const Tensor& score_count, const Tensor& flag, const Tensor& limit,
    const Tensor& token, const Tensor& score, const Tensor& token_class,
    const std::optional<Tensor>& active, int64_t max_step) {
  STD_TORCH_CHECK(transcript.dim() == 2, "transcript must have shape [rows, capacity], got ",
                  transcript.dim(), " dimension(s)");
  STD_TORCH_CHECK(transcript.scalar_type() == ScalarType::Long, "transcript must be Long, got ",
                  torch::headeronly::toString(transcript.scalar_type()));
  const int64_t rows = transcript.size(0);
  STD_TORCH_CHECK(transcript.size(1) <= 1 || transcript.stride(1) == 1,
                  "transcript must be contiguous in its last dimension, got stride ",
                  transcript.stride(1));
  STD_TORCH_CHECK(rows <= 1 || transcript.stride(0) != 0,
                  "transcript must have memory of its own for every row, got stride 0");
  STD_TORCH_CHECK(rows <= 1 || transcript.stride(0) >= transcript.size(1),
                  "transcript must have memory of its own for every row, got stride ",
                  transcript.stride(0), " for ", transcript.size(1), " columns");
  STD_TORCH_CHECK(max_step >= 1, "max_step must be at least 1, got ", max_step);
  STD_TORCH_CHECK(token_class.dim() == 1, "token_class must have shape [vocabulary], got ",
                  token_class.dim(), " dimension(s)");

  StepUpdateParams p;
  p.rows = rows;
  p.capacity = transcript.size(1);
  p.vocab = token_class.size(0);
  p.max_step = max_step;
  p.transcript = static_cast<int64_t*>(writable("transcript", transcript));
  p.transcript_stride = transcript.stride(0);
  const DeviceOf t(transcript);
  p.length = vector_pointer<int64_t>("length", length, ScalarType::Long, rows, t);
  p.step_start = vector_pointer<int64_t>("step_start", step_start, ScalarType::Long, rows, t);
  p.score_sum = vector_pointer<double>("score_sum", score_sum, ScalarType::Double, rows, t);
  p.score_count = vector_pointer<int64_t>("score_count", score_count, ScalarType::Long, rows, t);
  p.flag = vector_pointer<uint8_t>("flag", flag, ScalarType::Byte, rows, t);
  p.limit = vector_pointer<int64_t>("limit", limit, ScalarType::Long, rows, t);
  p.token = vector_pointer<int64_t>("token", token, ScalarType::Long, rows, t);
  p.score = vector_pointer<float>("score", score, ScalarType::Float, rows, t);
  p.token_class =
      vector_pointer<uint8_t>("token_class", token_class, ScalarType::Byte, p.vocab, t);
  if (active.has_value())
    p.active = vector_pointer<bool>("active", *active, ScalarType::Bool, rows, t);
  check_state_apart(p);
  return p;
}

}  // namespace steer
