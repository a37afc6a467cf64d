#include <cuda_runtime_api.h>

#include "cuda/build_info.h"

#define STEER_STRINGIZE_LIST(...) #__VA_ARGS__
#define STEER_STRINGIZE(...) STEER_STRINGIZE_LIST(__VA_ARGS__)

namespace steer {

CudaBuildInfo cuda_build_info() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) devices = 0;
  return {CUDART_VERSION, STEER_STRINGIZE(__CUDA_ARCH_LIST__), devices,
          cudaGetErrorString(status)};
}

}  // namespace steer
