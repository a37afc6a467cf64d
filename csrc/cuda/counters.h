// Counters of rows on a CUDA device, at zero.
#pragma once

#include <cstdint>

namespace steer {

// `count` counters for a call on `stream` of the current device `device`, from memory that is kept; none
// (null) where there is none: before the first call that is not captured, and when all is given out.
// The caller then brings its own to zero with `zero_counters`.
int* kept_counters(int device, void* stream, int64_t count);

// Queues the zeroing. Returns null, or what went wrong.
const char* zero_counters(int* counters, int64_t count, void* stream);

}  // namespace steer
