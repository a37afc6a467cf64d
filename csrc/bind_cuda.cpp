// The extension module steer_kernels._C_cuda: the CUDA part, built with nvcc only.
//
// It says what it was built with; the CUDA kernels register themselves here as they come. It needs
// the CUDA runtime, so it may fail to load on a machine without one: the Python package treats
// that as "no CUDA part" and goes on.
#include <Python.h>

#include "cuda/build_info.h"

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  const steer::CudaBuildInfo info = steer::cuda_build_info();
  return Py_BuildValue("{s:i,s:s,s:i,s:s}", "cuda_version", info.compiler_version,
                       "architectures", info.architectures, "devices", info.devices,
                       "runtime_status", info.runtime_status);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "CUDA version, architectures and visible devices."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", "CUDA part of steer_kernels.", 0, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C_cuda(void) { return PyModule_Create(&module); }
