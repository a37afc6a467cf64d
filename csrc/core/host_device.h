// Marks functions that the CPU and the CUDA kernels share.
#pragma once

#if defined(__CUDACC__)
#define STEER_HOST_DEVICE __host__ __device__
#else
#define STEER_HOST_DEVICE
#endif
