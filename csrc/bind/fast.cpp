// The module steer_kernels._fast: logit_stats and sample_logits that write into tensors they are given.
//
// Beside the operators of bind/cpu.cpp, for loops of one's own that call one of them for every token:
// no dispatcher and no allocation of outputs, which take a sixth of a call at one row. Tensors are
// looked into through DLPack (bind/dlpack.h), so this file compiles in seconds and calls torch for the
// threads only.
//
// pybind11 has no limited Python API. Editable installs build this file (setup.py), and so does
// torch.utils.cpp_extension.load together with csrc/cpu/*.cpp, for work on a kernel; a wheel leaves it
// out, and steer_kernels/fast.py then calls the operators. It has its own copy of the CPU kernels, and
// with it its own choice of the instruction set.
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind/dlpack.h"
#include "core/memory_overlap.h"
#include "cpu/isa.h"
#include "cpu/logit_stats.h"
#include "cpu/sample_logits.h"

namespace py = pybind11;

namespace {

using steer::data_of, steer::is_type, steer::look_into, steer::output, steer::shape_of, steer::text;

steer::DType dtype_of_logits(const DLTensor& logits) {
  if (is_type(logits, kDLFloat, 32)) return steer::DType::kFloat32;
  if (is_type(logits, kDLBfloat, 16)) return steer::DType::kBFloat16;
  if (is_type(logits, kDLFloat, 16)) return steer::DType::kFloat16;
  throw py::type_error("logits must be float32, bfloat16 or float16, got DLPack type code " +
                       text(logits.dtype.code) + " with " + text(logits.dtype.bits) + " bits");
}

int64_t columns_of_topk(PyObject* topk_ids) {
  const DLTensor tensor = look_into(topk_ids, "out.topk_ids");
  if (tensor.ndim != 2)
    throw py::value_error("out.topk_ids must have shape [B, k], got " + shape_of(tensor));
  return tensor.shape[1];
}

steer::LogitStatsParams params_of(PyObject* object, int64_t k, const py::object& vocab_size) {
  const DLTensor logits = look_into(object, "logits");
  steer::LogitStatsParams params;
  params.dtype = dtype_of_logits(logits);
  if (logits.ndim != 2)
    throw py::value_error("logits must have shape [B, V], got " + shape_of(logits));
  const int64_t columns = logits.shape[1];
  if (columns < 1) throw py::value_error("logits must have at least one column, got 0");
  if (columns > 1 && logits.strides != nullptr && logits.strides[1] != 1)
    throw py::value_error("logits must be contiguous in the last dimension, got stride " +
                          text(logits.strides[1]) + "; call .contiguous() first");
  int64_t vocab = columns;
  if (!vocab_size.is_none()) {
    if (!PyLong_CheckExact(vocab_size.ptr()))
      throw py::type_error("vocab_size must be an int or None, got " +
                           std::string(py::repr(vocab_size)));
    vocab = vocab_size.cast<int64_t>();
    if (vocab < 1 || vocab > columns)
      throw py::value_error("vocab_size must be in 1.." + text(columns) + " (columns), got " +
                            text(vocab));
  }
  const int64_t limit = std::min<int64_t>(vocab, steer::kMaxTopK);
  if (k < 1 || k > limit)
    throw py::value_error("k, the columns of out.topk_ids, must be in 1.." + text(limit) +
                          ", got " + text(k));
  params.logits = data_of<void>(logits);
  params.rows = logits.shape[0];
  params.row_stride = logits.strides == nullptr ? columns : logits.strides[0];
  params.vocab = vocab;
  params.k = static_cast<int>(k);
  return params;
}

// Outputs share no byte with the logits or with each other; `token` and `logprob` may be null.
void check_apart(const steer::LogitStatsParams& p, const int64_t* token, const float* logprob) {
  const int64_t element = p.dtype == steer::DType::kFloat32 ? 4 : 2;
  const int64_t read = p.rows == 0 ? 0 : ((p.rows - 1) * p.row_stride + p.vocab) * element;
  const steer::ByteRange ranges[] = {
      {"out.max_logit", p.max_logit, p.rows * 4},
      {"out.lse", p.lse, p.rows * 4},
      {"out.entropy", p.entropy, p.rows * 4},
      {"out.topk_logits", p.topk_logits, p.rows * p.k * 4},
      {"out.topk_ids", p.topk_ids, p.rows * p.k * 8},
      {"out.valid", p.valid, p.rows},
      {"out.token", token, token == nullptr ? 0 : p.rows * 8},
      {"out.logprob", logprob, logprob == nullptr ? 0 : p.rows * 4},
      {"logits", p.logits, read},
  };
  constexpr int kOutputs = 8;
  for (int a = 0; a < kOutputs; ++a)
    for (int b = a + 1; b <= kOutputs; ++b)
      if (ranges[a].meets(ranges[b]))
        throw py::value_error(steer::overlap_sentence(ranges[a], ranges[b]));
}

// The fields of a LogitStats, or the first of a SampledLogits, entered into the parameters.
steer::LogitStatsParams bind_stats(PyObject* logits, PyObject* out, Py_ssize_t fields,
                                   const char* type, const py::object& vocab_size) {
  if (!PyTuple_Check(out) || PyTuple_GET_SIZE(out) != fields)
    throw py::type_error(std::string("out must be a ") + type + ", got " + Py_TYPE(out)->tp_name);
  const auto field = [out](int i) { return PyTuple_GET_ITEM(out, i); };
  steer::LogitStatsParams params = params_of(logits, columns_of_topk(field(4)), vocab_size);
  params.max_logit = output<float>(field(0), "out.max_logit", kDLFloat, params.rows, 0);
  params.lse = output<float>(field(1), "out.lse", kDLFloat, params.rows, 0);
  params.entropy = output<float>(field(2), "out.entropy", kDLFloat, params.rows, 0);
  params.topk_logits =
      output<float>(field(3), "out.topk_logits", kDLFloat, params.rows, params.k);
  params.topk_ids = output<int64_t>(field(4), "out.topk_ids", kDLInt, params.rows, params.k);
  params.valid = output<bool>(field(5), "out.valid", kDLBool, params.rows, 0);
  return params;
}

// torch's threads, as the operators use them.
void torch_threads(int64_t count, int64_t grain, const steer::RangeBody& body) {
  const auto call = [](int64_t begin, int64_t end, void* context) {
    (*static_cast<const steer::RangeBody*>(context))(begin, end);
  };
  void* context = const_cast<void*>(static_cast<const void*>(&body));
  if (torch_parallel_for(0, count, grain, call, context) != 0)
    throw std::runtime_error("torch's parallel_for failed");
}

py::object logit_stats_into(const py::object& logits, const py::object& out,
                            const py::object& vocab_size) {
  const steer::LogitStatsParams params =
      bind_stats(logits.ptr(), out.ptr(), 6, "LogitStats", vocab_size);
  check_apart(params, nullptr, nullptr);
  {
    py::gil_scoped_release released;
    steer::logit_stats_cpu(params, torch_threads);
  }
  return out;
}

void check_numbers(const steer::SampleLogitsParams& params) {
  if (!(std::isfinite(params.temperature) && params.temperature >= 0.0))
    throw py::value_error("temperature must be 0 (greedy) or a positive number, got " +
                          std::to_string(params.temperature));
  if (params.top_k < 0)
    throw py::value_error("top_k must be 0 (all) or positive, got " + text(params.top_k));
  if (!(params.top_p > 0.0 && params.top_p <= 1.0))
    throw py::value_error("top_p must lie in (0, 1], got " + std::to_string(params.top_p));
  if (!(params.min_p >= 0.0 && params.min_p <= 1.0))
    throw py::value_error("min_p must lie in [0, 1], got " + std::to_string(params.min_p));
  if (params.stats.vocab > INT32_MAX)
    throw py::value_error("vocab_size must be below 2^31, got " + text(params.stats.vocab));
}

std::vector<double> uniform_of(PyObject* object, int64_t rows) {
  const DLTensor tensor = look_into(object, "uniform");
  const bool wide = is_type(tensor, kDLFloat, 64);
  if (!wide && !is_type(tensor, kDLFloat, 32))
    throw py::type_error("uniform must be float32 or float64");
  if (tensor.ndim != 1 || tensor.shape[0] != rows)
    throw py::value_error("uniform must have shape [B] = [" + text(rows) + "], got " +
                          shape_of(tensor));
  std::vector<double> values(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = tensor.strides == nullptr ? row : row * tensor.strides[0];
    values[row] = wide ? data_of<double>(tensor)[at] : data_of<float>(tensor)[at];
    if (!(values[row] >= 0.0 && values[row] < 1.0))
      throw std::runtime_error("uniform must lie in [0, 1), got " + std::to_string(values[row]) +
                               " in row " + text(row));
  }
  return values;
}

py::object sample_logits_into(const py::object& logits, const py::object& uniform,
                              const py::object& out, double temperature, int64_t top_k,
                              double top_p, double min_p, const py::object& vocab_size) {
  steer::SampleLogitsParams params;
  params.stats = bind_stats(logits.ptr(), out.ptr(), 8, "SampledLogits", vocab_size);
  const int64_t rows = params.stats.rows;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  check_numbers(params);
  params.token = output<int64_t>(PyTuple_GET_ITEM(out.ptr(), 6), "out.token", kDLInt, rows, 0);
  params.logprob = output<float>(PyTuple_GET_ITEM(out.ptr(), 7), "out.logprob", kDLFloat, rows, 0);
  check_apart(params.stats, params.token, params.logprob);
  const std::vector<double> values = uniform_of(uniform.ptr(), rows);
  params.uniform = values.data();
  {
    py::gil_scoped_release released;
    steer::sample_logits_cpu(params, torch_threads);
  }
  return out;
}

py::dict build_info() {
  using namespace pybind11::literals;
  return py::dict("compiler"_a = __VERSION__, "torch_headers"_a = TORCH_VERSION,
                  "pybind11"_a = text(PYBIND11_VERSION_MAJOR) + "." +
                                 text(PYBIND11_VERSION_MINOR));
}

}  // namespace

#ifndef TORCH_EXTENSION_NAME  // setup.py and cpp_extension.load both give it
#define TORCH_EXTENSION_NAME _fast
#endif

// Nothing is kept between calls but the instruction set, which is atomic.
PYBIND11_MODULE(TORCH_EXTENSION_NAME, module, py::mod_gil_not_used()) {
  module.doc() = "logit_stats and sample_logits that write into the tensors they are given.";
  steer::find_exchange_table();
  module.def("logit_stats_", &logit_stats_into, py::arg("logits"), py::arg("out"),
             py::arg("vocab_size") = py::none());
  module.def("sample_logits_", &sample_logits_into, py::arg("logits"), py::arg("uniform"),
             py::arg("out"), py::arg("temperature") = 1.0, py::arg("top_k") = 0,
             py::arg("top_p") = 1.0, py::arg("min_p") = 0.0, py::arg("vocab_size") = py::none());
  module.def("set_cpu_isa", &steer::set_isa, "Use this instruction set; '' for the default.");
  module.def("cpu_isa", [] { return std::string(steer::isa_name(steer::current_isa())); });
  module.def("build_info", &build_info, "Compiler, and headers that it was compiled with.");
}
