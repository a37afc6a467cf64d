// What the CUDA part was compiled with, and what the runtime says on this machine.
#pragma once

namespace steer {

struct CudaBuildInfo {
  int compiler_version;        // as CUDART_VERSION: 1000 * major + 10 * minor
  const char* architectures;   // e.g. "800,900": __CUDA_ARCH_LIST__ of the compilation
  int devices;                 // visible CUDA devices
  const char* runtime_status;  // "no error", or why the count failed
};

CudaBuildInfo cuda_build_info();

}  // namespace steer
