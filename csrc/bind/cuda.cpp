// The extension module steer_kernels._C_cuda: the CUDA part, built with nvcc only.
//
// Loading it registers the CUDA kernels of the two in-place operators and of logit_stats, whose schemas
// are those of steer_kernels._C, and an operator of its own for sample_logits, which gives the token -1 to
// a row whose list does not decide the cuts: Triton searches that. It needs the CUDA runtime, so it may fail to load on a machine without one: the
// Python package treats that as "no CUDA part" and goes on.
#include <Python.h>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <dlfcn.h>

#include <optional>

#include "bind/cuda_rows.h"
#include "bind/kv_append.h"
#include "bind/step_update.h"
#include "cuda/build_info.h"
#include "cuda/kv_append.h"
#include "cuda/step_update.h"

namespace {

using torch::stable::Tensor;

// The stream that torch is working on. The function is part of torch's stable C interface, but
// lives in libtorch_cuda, which a CPU build of torch lacks; it is looked up at the first call so
// that this module links and loads there too. (From torch 2.13 on, stable::Stream has the handle.)
void* current_stream(int32_t device) {
  using GetStream = int32_t (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<GetStream>(
        library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  STD_TORCH_CHECK(get_stream != nullptr,
                  "libtorch_cuda.so with aoti_torch_get_current_cuda_stream is not loaded");
  void* stream = nullptr;
  STD_TORCH_CHECK(get_stream(device, &stream) == 0, "torch has no current CUDA stream");
  return stream;
}

void kv_append(const Tensor& k_cache, const Tensor& v_cache, const Tensor& k, const Tensor& v,
               const Tensor& rows, const Tensor& starts, const Tensor& counts) {
  const auto params = steer::kv_append_params(k_cache, v_cache, k, v, rows, starts, counts);
  steer::check_caches_apart(params);
  const int32_t device = k_cache.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const char* fault = steer::kv_append_cuda(params, current_stream(device));
  STD_TORCH_CHECK(fault == nullptr, "kv_append_: ", fault);
}

void step_update(const Tensor& transcript, const Tensor& length, const Tensor& step_start,
                 const Tensor& score_sum, const Tensor& score_count, const Tensor& flag,
                 const Tensor& limit, const Tensor& token, const Tensor& score,
                 const Tensor& token_class, const std::optional<Tensor>& active,
                 int64_t max_step) {
  const auto params =
      steer::step_update_params(transcript, length, step_start, score_sum, score_count, flag,
                                limit, token, score, token_class, active, max_step);
  const int32_t device = transcript.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const char* fault = steer::step_update_cuda(params, current_stream(device));
  STD_TORCH_CHECK(fault == nullptr, "step_update_: ", fault);
}

steer::StatsTensors logit_stats(const Tensor& logits, int64_t k,
                                std::optional<int64_t> vocab_size) {
  return steer::logit_stats_cuda(logits, k, vocab_size, current_stream);
}

steer::SampledTensors sample_rows(const Tensor& logits, const Tensor& uniform, double temperature,
                                  int64_t top_k, double top_p, double min_p, int64_t k,
                                  std::optional<int64_t> vocab_size) {
  return steer::sample_rows_cuda(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size,
                                 current_stream);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(steer_kernels, library) {
  library.def(
      "_sample_rows(Tensor logits, Tensor uniform, float temperature, int top_k, float top_p, "
      "float min_p, int k, int? vocab_size) -> "
      "(Tensor max_logit, Tensor lse, Tensor entropy, Tensor topk_logits, Tensor topk_ids, "
      "Tensor valid, Tensor token, Tensor logprob)");
}

STABLE_TORCH_LIBRARY_IMPL(steer_kernels, CUDA, library) {
  library.impl("logit_stats", TORCH_BOX(&logit_stats));
  library.impl("_sample_rows", TORCH_BOX(&sample_rows));
  library.impl("kv_append_", TORCH_BOX(&kv_append));
  library.impl("step_update_", TORCH_BOX(&step_update));
}

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

PyMODINIT_FUNC PyInit__C_cuda(void) {
  PyObject* made = PyModule_Create(&module);
#ifdef Py_GIL_DISABLED  // nothing is kept between calls
  if (made != nullptr) PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
  return made;
}
