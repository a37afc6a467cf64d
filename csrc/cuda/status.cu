#include "cuda/status.h"

#include <string>

#include "cuda/build_info.h"

namespace steer {
namespace {

std::string of_this_card() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    return "this card";
  return "this card, of compute capability " + std::to_string(major) + "." + std::to_string(minor);
}

std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

std::string explained(cudaError_t status) {
  const CudaBuildInfo built = cuda_build_info();
  switch (status) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "there is no kernel for " + of_this_card() + ": this build has architectures " +
             built.architectures + "; build it with TORCH_CUDA_ARCH_LIST set to the card's";
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion: {
      int driver = 0;
      if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return "there is no driver for a card on this machine: install one for CUDA " +
               version(built.compiler_version);
      return "the driver, for CUDA " + version(driver) + ", is too old for this build, of CUDA " +
             version(built.compiler_version) + ": update the driver or build with an older nvcc";
    }
    default: return cudaGetErrorString(status);
  }
}

}  // namespace

const char* fault_of(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  static thread_local std::string said;
  said = explained(status);
  return said.c_str();
}

}  // namespace steer
