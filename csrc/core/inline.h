// Marks functions that are to be inlined whatever else a file holds.
//
// The tiles of all ops are one translation unit per instruction set. GCC lets a large unit grow by
// inlining to 1.4 times its size only, and then leaves a call in the innermost loop of one op on
// account of another. What is marked does not count as growth; so much of it is that the unmarked
// rest is inlined as in a unit of its own.
#pragma once

#if defined(__GNUC__) || defined(__clang__)
#define STEER_INLINE inline __attribute__((always_inline))
#else
#define STEER_INLINE inline
#endif
