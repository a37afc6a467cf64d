// The extension module steer_kernels._C: operator schemas and CPU kernels.
//
// Built on the LibTorch stable ABI (torch/csrc/stable, torch/headeronly) and the limited Python
// API, so one binary serves every torch from 2.10 and every CPython from 3.10. Loading the module
// registers the operators; its few Python functions report and choose the instruction set.
#include <Python.h>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "bind/allocate.h"
#include "bind/decode_attention.h"
#include "bind/decode_linear.h"
#include "bind/kv_append.h"
#include "bind/logits.h"
#include "bind/rms_norm.h"
#include "bind/step_update.h"
#include "cpu/accept_drafts.h"
#include "cpu/decode_attention.h"
#include "cpu/decode_linear.h"
#include "cpu/isa.h"
#include "cpu/kv_append.h"
#include "cpu/logit_stats.h"
#include "cpu/rms_norm.h"
#include "cpu/sample_logits.h"
#include "cpu/step_update.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void torch_parallel_for(int64_t count, int64_t grain, const steer::RangeBody& body) {
  torch::stable::parallel_for(0, count, grain, body);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> logit_stats(
    Tensor logits, int64_t k, std::optional<int64_t> vocab_size) {
  steer::LogitStatsParams params = steer::checked_params(logits, k, vocab_size);
  steer::StatsOutputs out(params);
  steer::logit_stats_cpu(params, torch_parallel_for);
  return {out.max_logit, out.lse, out.entropy, out.topk_logits, out.topk_ids, out.valid};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sample_logits(
    Tensor logits, Tensor uniform, double temperature, int64_t top_k, double top_p, double min_p,
    int64_t k, std::optional<int64_t> vocab_size) {
  std::vector<double> values;
  steer::SampleLogitsParams params = steer::checked_sampling(
      logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size, values);
  steer::StatsOutputs out(params.stats);
  Tensor token = steer::allocate(params.stats.rows, std::nullopt, ScalarType::Long);
  Tensor logprob = steer::allocate(params.stats.rows, std::nullopt, ScalarType::Float);
  params.token = static_cast<int64_t*>(token.mutable_data_ptr());
  params.logprob = static_cast<float*>(logprob.mutable_data_ptr());
  steer::sample_logits_cpu(params, torch_parallel_for);
  return {out.max_logit, out.lse,   out.entropy, out.topk_logits,
          out.topk_ids,  out.valid, token,       logprob};
}

// The same in one tensor [rows, 6 + 2 k], float64, which holds floats and ids below 2^31 exactly:
// for a host that reads the numbers, one allocation and one read in place of eight.
Tensor sample_logits_packed(Tensor logits, Tensor uniform, double temperature, int64_t top_k,
                            double top_p, double min_p, int64_t k,
                            std::optional<int64_t> vocab_size) {
  std::vector<double> values;
  steer::SampleLogitsParams params = steer::checked_sampling(
      logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size, values);
  const steer::PackedOutputs outputs(params);
  steer::sample_logits_cpu(params, torch_parallel_for);

  Tensor packed = steer::allocate(outputs.rows, outputs.columns(), ScalarType::Double);
  double* out = static_cast<double*>(packed.mutable_data_ptr());
  for (int64_t row = 0; row < outputs.rows; ++row) out = outputs.write(row, out);
  return packed;
}

// Those columns, and two more.
Tensor accept_drafts(Tensor logits, Tensor drafts, Tensor uniform,
                     std::optional<Tensor> draft_logits, double temperature, int64_t top_k,
                     double top_p, double min_p, int64_t k, std::optional<int64_t> vocab_size) {
  std::vector<double> values;
  steer::AcceptDraftsParams params;
  params.large = steer::checked_sampling(logits, uniform, temperature, top_k, top_p, min_p, k,
                                         vocab_size, values);
  const steer::DeviceOf device(logits);
  const int64_t rows = params.large.stats.rows;
  const std::vector<int64_t> ids =
      steer::checked_drafts(drafts, rows, params.large.stats.vocab, device);
  params.drafts = ids.data();
  if (draft_logits.has_value()) steer::check_draft_logits(*draft_logits, device, params);
  const steer::PackedOutputs outputs(params.large);
  std::vector<float> draft_logprob(rows);
  const std::unique_ptr<bool[]> accepted(new bool[rows]);
  params.draft_logprob = draft_logprob.data();
  params.accepted = accepted.get();
  steer::accept_drafts_cpu(params, torch_parallel_for);

  Tensor packed = steer::allocate(rows, outputs.columns() + 2, ScalarType::Double);
  double* out = static_cast<double*>(packed.mutable_data_ptr());
  for (int64_t row = 0; row < rows; ++row) {
    out = outputs.write(row, out);
    *out++ = draft_logprob[row];
    *out++ = accepted[row] ? 1.0 : 0.0;
  }
  return packed;
}

void kv_append(const Tensor& k_cache, const Tensor& v_cache, const Tensor& k, const Tensor& v,
               const Tensor& rows, const Tensor& starts, const Tensor& counts) {
  steer::kv_append_cpu(steer::kv_append_params(k_cache, v_cache, k, v, rows, starts, counts),
                       [](int64_t count, int64_t grain, const steer::RangeBody& body) {
                         torch::stable::parallel_for(0, count, grain, body);
                       });
}

Tensor decode_attention(const Tensor& query, const Tensor& keys, const Tensor& values,
                        const Tensor& starts, std::optional<double> scale,
                        std::optional<int64_t> window) {
  steer::DecodeAttentionParams params =
      steer::decode_attention_params(query, keys, values, starts, scale, window);
  const int64_t sizes[4] = {params.batch, params.queries, params.heads, params.value_size};
  const int64_t token = params.heads * params.value_size;
  const int64_t strides[4] = {params.queries * token, token, params.value_size, 1};
  Tensor out = steer::allocate(4, sizes, strides, query.scalar_type());
  params.out = out.mutable_data_ptr();
  steer::decode_attention_cpu(params, torch_parallel_for);
  return out;
}

Tensor decode_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const Tensor rows = steer::has_plain_rows(x) ? x : torch::stable::contiguous(x);
  steer::DecodeLinearParams params = steer::decode_linear_params(rows, weight, bias);
  Tensor out = steer::allocate_like(x, params.out_features);
  params.out = out.mutable_data_ptr();
  steer::decode_linear_cpu(params, torch_parallel_for);
  return out;
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  const Tensor rows = steer::has_plain_rows(x) ? x : torch::stable::contiguous(x);
  steer::RmsNormParams params = steer::rms_norm_params(rows, weight, epsilon);
  Tensor out = steer::allocate_like(x, params.size);
  params.out = out.mutable_data_ptr();
  steer::rms_norm_cpu(params, torch_parallel_for);
  return out;
}

void step_update(const Tensor& transcript, const Tensor& length, const Tensor& step_start,
                 const Tensor& score_sum, const Tensor& score_count, const Tensor& flag,
                 const Tensor& limit, const Tensor& token, const Tensor& score,
                 const Tensor& token_class, const std::optional<Tensor>& active,
                 int64_t max_step) {
  steer::step_update_cpu(steer::step_update_params(transcript, length, step_start, score_sum,
                                                   score_count, flag, limit, token, score,
                                                   token_class, active, max_step));
}

}  // namespace

STABLE_TORCH_LIBRARY(steer_kernels, library) {
  library.def(
      "logit_stats(Tensor logits, int k=8, int? vocab_size=None) -> (Tensor max_logit, "
      "Tensor lse, Tensor entropy, Tensor topk_logits, Tensor topk_ids, Tensor valid)");
  library.def(
      "sample_logits(Tensor logits, Tensor uniform, float temperature=1.0, int top_k=0, "
      "float top_p=1.0, float min_p=0.0, int k=8, int? vocab_size=None) -> (Tensor max_logit, "
      "Tensor lse, Tensor entropy, Tensor topk_logits, Tensor topk_ids, Tensor valid, "
      "Tensor token, Tensor logprob)");
  library.def(
      "sample_logits_packed(Tensor logits, Tensor uniform, float temperature=1.0, int top_k=0, "
      "float top_p=1.0, float min_p=0.0, int k=8, int? vocab_size=None) -> Tensor");
  library.def(
      "accept_drafts(Tensor logits, Tensor drafts, Tensor uniform, Tensor? draft_logits=None, "
      "float temperature=1.0, int top_k=0, float top_p=1.0, float min_p=0.0, int k=8, "
      "int? vocab_size=None) -> Tensor");
  library.def(
      "decode_attention(Tensor query, Tensor keys, Tensor values, Tensor starts, "
      "float? scale=None, int? window=None) -> Tensor");
  library.def("decode_linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor");
  library.def("rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor");
  library.def(
      "kv_append_(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor rows, "
      "Tensor starts, Tensor counts) -> ()");
  library.def(
      "step_update_(Tensor(a!) transcript, Tensor(b!) length, Tensor(c!) step_start, "
      "Tensor(d!) score_sum, Tensor(e!) score_count, Tensor(f!) flag, Tensor limit, Tensor token, "
      "Tensor score, Tensor token_class, *, Tensor? active=None, int max_step=512) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(steer_kernels, CPU, library) {
  library.impl("logit_stats", TORCH_BOX(&logit_stats));
  library.impl("sample_logits", TORCH_BOX(&sample_logits));
  library.impl("sample_logits_packed", TORCH_BOX(&sample_logits_packed));
  library.impl("accept_drafts", TORCH_BOX(&accept_drafts));
  library.impl("decode_attention", TORCH_BOX(&decode_attention));
  library.impl("decode_linear", TORCH_BOX(&decode_linear));
  library.impl("rms_norm", TORCH_BOX(&rms_norm));
  library.impl("kv_append_", TORCH_BOX(&kv_append));
  library.impl("step_update_", TORCH_BOX(&step_update));
}

namespace {

PyObject* cpu_isa(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(steer::isa_name(steer::current_isa()));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

PyObject* set_cpu_isa(PyObject*, PyObject* args) {
  const char* name = nullptr;
  if (!PyArg_ParseTuple(args, "s", &name)) return nullptr;
  try {
    steer::set_isa(name);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* supported_cpu_isas(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  if (names == nullptr) return nullptr;
  for (steer::Isa isa : steer::supported_isas()) {
    PyObject* name = PyUnicode_FromString(steer::isa_name(isa));
    const int failed = name == nullptr ? -1 : PyList_Append(names, name);
    Py_XDECREF(name);
    if (failed != 0) {
      Py_DECREF(names);
      return nullptr;
    }
  }
  return names;
}

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s,s:s}", "compiler", __VERSION__, "torch_headers", TORCH_VERSION);
}

PyMethodDef methods[] = {
    {"cpu_isa", cpu_isa, METH_NOARGS, "Name of the instruction set in use."},
    {"set_cpu_isa", set_cpu_isa, METH_VARARGS, "Use this instruction set; '' for the default."},
    {"supported_cpu_isas", supported_cpu_isas, METH_NOARGS, "Names, the best one last."},
    {"build_info", build_info, METH_NOARGS, "Compiler and torch headers of this binary."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", "Operators of steer_kernels.", 0, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C(void) {
  PyObject* made = PyModule_Create(&module);
#ifdef Py_GIL_DISABLED  // the one thing that is kept between calls, the instruction set, is atomic
  if (made != nullptr) PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
  return made;
}
