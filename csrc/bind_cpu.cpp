// The extension module steer_kernels._C: operator schemas and CPU kernels.
//
// Built on the LibTorch stable ABI (torch/csrc/stable, torch/headeronly) and the limited Python
// API, so one binary serves every torch from 2.10 and every CPython from 3.10. Loading the module
// registers the operators; its few Python functions report and choose the instruction set.
#include <Python.h>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/version.h>

#include <cmath>
#include <exception>
#include <optional>
#include <tuple>
#include <vector>

#include "bind_decode_attention.h"
#include "bind_inplace.h"
#include "cpu/decode_attention.h"
#include "cpu/kv_append.h"
#include "cpu/logit_stats.h"
#include "cpu/sample_logits.h"
#include "cpu/step_update.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

steer::DType checked_dtype(const Tensor& logits) {
  switch (logits.scalar_type()) {
    case ScalarType::Float: return steer::DType::kFloat32;
    case ScalarType::BFloat16: return steer::DType::kBFloat16;
    case ScalarType::Half: return steer::DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, "logits must be float32, bfloat16 or float16, got scalar type ",
                      torch::headeronly::toString(logits.scalar_type()));
  }
}

// Also reached through torch.ops, past the checks in Python, so everything is checked here.
steer::LogitStatsParams checked_params(const Tensor& logits, int64_t k,
                                       std::optional<int64_t> vocab_size) {
  STD_TORCH_CHECK(logits.dim() == 2, "logits must have shape [batch, vocabulary], got ",
                  logits.dim(), " dimension(s)");
  const int64_t columns = logits.size(1);
  STD_TORCH_CHECK(columns >= 1, "logits must have at least one column, got 0");
  STD_TORCH_CHECK(columns == 1 || logits.stride(1) == 1,
                  "logits must be contiguous in its last dimension, got stride ",
                  logits.stride(1));
  const int64_t vocab = vocab_size.value_or(columns);
  STD_TORCH_CHECK(vocab >= 1 && vocab <= columns, "vocab_size must be in 1..", columns, ", got ",
                  vocab);
  const int64_t k_limit = std::min<int64_t>(vocab, steer::kMaxTopK);
  STD_TORCH_CHECK(k >= 1 && k <= k_limit, "k must be in 1..", k_limit, ", got ", k);

  steer::LogitStatsParams params;
  params.dtype = checked_dtype(logits);
  params.logits = logits.const_data_ptr();
  params.rows = logits.size(0);
  params.row_stride = logits.stride(0);
  params.vocab = vocab;
  params.k = static_cast<int>(k);
  return params;
}

// A CPU tensor, made past the dispatcher: with six to eight of them a call, `new_empty` takes twice
// as long, and a call is a few microseconds.
Tensor allocate(int64_t dims, const int64_t* sizes, const int64_t* strides, ScalarType dtype) {
  const int32_t code =
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dims, sizes, strides, code, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// Contiguous, [rows] or [rows, columns].
Tensor allocate(int64_t rows, std::optional<int64_t> columns, ScalarType dtype) {
  const int64_t sizes[2] = {rows, columns.value_or(1)};
  const int64_t strides[2] = {columns.value_or(1), 1};
  return allocate(columns.has_value() ? 2 : 1, sizes, strides, dtype);
}

// The six outputs, allocated and entered into the parameters.
struct StatsOutputs {
  explicit StatsOutputs(steer::LogitStatsParams& params)
      : max_logit(allocate(params.rows, std::nullopt, ScalarType::Float)),
        lse(allocate(params.rows, std::nullopt, ScalarType::Float)),
        entropy(allocate(params.rows, std::nullopt, ScalarType::Float)),
        topk_logits(allocate(params.rows, params.k, ScalarType::Float)),
        topk_ids(allocate(params.rows, params.k, ScalarType::Long)),
        valid(allocate(params.rows, std::nullopt, ScalarType::Bool)) {
    params.max_logit = static_cast<float*>(max_logit.mutable_data_ptr());
    params.lse = static_cast<float*>(lse.mutable_data_ptr());
    params.entropy = static_cast<float*>(entropy.mutable_data_ptr());
    params.topk_logits = static_cast<float*>(topk_logits.mutable_data_ptr());
    params.topk_ids = static_cast<int64_t*>(topk_ids.mutable_data_ptr());
    params.valid = static_cast<bool*>(valid.mutable_data_ptr());
  }

  Tensor max_logit, lse, entropy, topk_logits, topk_ids, valid;
};

void torch_parallel_for(int64_t count, int64_t grain, const steer::RangeBody& body) {
  torch::stable::parallel_for(0, count, grain, body);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> logit_stats(
    Tensor logits, int64_t k, std::optional<int64_t> vocab_size) {
  steer::LogitStatsParams params = checked_params(logits, k, vocab_size);
  StatsOutputs out(params);
  steer::logit_stats_cpu(params, torch_parallel_for);
  return {out.max_logit, out.lse, out.entropy, out.topk_logits, out.topk_ids, out.valid};
}

std::vector<double> checked_uniform(const Tensor& uniform, int64_t rows) {
  STD_TORCH_CHECK(uniform.dim() == 1 && uniform.size(0) == rows,
                  "uniform must have shape [batch] = [", rows, "], got ", uniform.dim(),
                  " dimension(s) and ", uniform.numel(), " element(s)");
  const ScalarType dtype = uniform.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "uniform must be float32 or float64, got scalar type ",
                  torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(uniform.is_cpu(), "uniform must be on the device of the logits, the CPU");
  std::vector<double> values(rows);
  const void* data = uniform.const_data_ptr();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * uniform.stride(0);
    const double value = dtype == ScalarType::Double ? static_cast<const double*>(data)[at]
                                                     : static_cast<const float*>(data)[at];
    STD_TORCH_CHECK(value >= 0.0 && value < 1.0, "uniform must lie in [0, 1), got ", value,
                    " in row ", row);
    values[row] = value;
  }
  return values;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sample_logits(
    Tensor logits, Tensor uniform, double temperature, int64_t top_k, double top_p, double min_p,
    int64_t k, std::optional<int64_t> vocab_size) {
  steer::SampleLogitsParams params;
  params.stats = checked_params(logits, k, vocab_size);
  STD_TORCH_CHECK(params.stats.vocab <= INT32_MAX, "vocab_size must be below 2^31, got ",
                  params.stats.vocab);
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature >= 0.0,
                  "temperature must be 0 (greedy) or a positive number, got ", temperature);
  STD_TORCH_CHECK(top_k >= 0, "top_k must be 0 (all) or positive, got ", top_k);
  STD_TORCH_CHECK(top_p > 0.0 && top_p <= 1.0, "top_p must lie in (0, 1], got ", top_p);
  STD_TORCH_CHECK(min_p >= 0.0 && min_p <= 1.0, "min_p must lie in [0, 1], got ", min_p);
  const std::vector<double> values = checked_uniform(uniform, params.stats.rows);
  params.uniform = values.data();
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  StatsOutputs out(params.stats);
  Tensor token = allocate(params.stats.rows, std::nullopt, ScalarType::Long);
  Tensor logprob = allocate(params.stats.rows, std::nullopt, ScalarType::Float);
  params.token = static_cast<int64_t*>(token.mutable_data_ptr());
  params.logprob = static_cast<float*>(logprob.mutable_data_ptr());
  steer::sample_logits_cpu(params, torch_parallel_for);
  return {out.max_logit, out.lse,   out.entropy, out.topk_logits,
          out.topk_ids,  out.valid, token,       logprob};
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
  Tensor out = allocate(4, sizes, strides, query.scalar_type());
  params.out = out.mutable_data_ptr();
  steer::decode_attention_cpu(params, torch_parallel_for);
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
      "decode_attention(Tensor query, Tensor keys, Tensor values, Tensor starts, "
      "float? scale=None, int? window=None) -> Tensor");
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
  library.impl("decode_attention", TORCH_BOX(&decode_attention));
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

PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module); }
