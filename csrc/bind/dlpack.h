// A look into CPU tensors through DLPack's C exchange table, which torch publishes on its tensor type
// since 2.10: a struct of pointers and sizes is filled without a copy, a capsule or a look at ATen's
// headers. What a tensor is refused for is a Python exception.
#pragma once

#include <ATen/dlpack.h>  // plain C
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace steer {

namespace py = pybind11;

// The type torch.Tensor and its exchange table; found when the module loads, kept for good.
inline PyTypeObject* tensor_type = nullptr;
inline const DLPackExchangeAPI* exchange = nullptr;

inline void find_exchange_table() {
  py::object type = py::module_::import("torch").attr("Tensor");
  py::object capsule = type.attr("__dlpack_c_exchange_api__");
  void* table = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (table == nullptr) throw py::error_already_set();
  exchange = static_cast<const DLPackExchangeAPI*>(table);
  if (exchange->header.version.major != DLPACK_MAJOR_VERSION ||
      exchange->dltensor_from_py_object_no_sync == nullptr)
    throw std::runtime_error("this torch publishes another version of DLPack's exchange table");
  tensor_type = reinterpret_cast<PyTypeObject*>(type.release().ptr());
}

inline std::string text(int64_t number) { return std::to_string(number); }

inline std::string shape_of(const DLTensor& tensor) {
  std::string shape = "[";
  for (int i = 0; i < tensor.ndim; ++i) shape += (i == 0 ? "" : ", ") + text(tensor.shape[i]);
  return shape + "]";
}

inline bool is_type(const DLTensor& tensor, int code, int bits) {
  return tensor.dtype.code == code && tensor.dtype.bits == bits && tensor.dtype.lanes == 1;
}

template <class T>
T* data_of(const DLTensor& tensor) {
  return reinterpret_cast<T*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
}

// What a CPU tensor holds, without a copy; valid as long as the caller holds the tensor.
inline DLTensor look_into(PyObject* object, const char* name) {
  if (Py_TYPE(object) != tensor_type)
    throw py::type_error(std::string(name) + " must be a torch.Tensor and no subclass, got " +
                         Py_TYPE(object)->tp_name);
  DLTensor tensor;
  if (exchange->dltensor_from_py_object_no_sync(object, &tensor) != 0) {
    py::error_already_set reason;
    const std::string what = reason.what();  // torch adds a trace of C++ frames below
    throw py::value_error(std::string(name) + " cannot be used where it lies: " +
                          what.substr(0, what.find('\n')));
  }
  if (tensor.device.device_type != kDLCPU)
    throw py::value_error(std::string(name) + " must be on the CPU, got DLPack device type " +
                          text(tensor.device.device_type) +
                          "; the operators of steer_kernels take CUDA tensors");
  bool elements = true;
  for (int i = 0; i < tensor.ndim; ++i) elements = elements && tensor.shape[i] != 0;
  if (elements && tensor.data == nullptr)  // torch._efficientzerotensor, storage that was freed
    throw py::value_error(std::string(name) + " has no memory");
  return tensor;
}

// An output: contiguous, of this type and shape; `columns` is 0 for one dimension.
template <class T>
T* output(PyObject* object, const char* name, int code, int64_t rows, int64_t columns) {
  const DLTensor tensor = look_into(object, name);
  if (!is_type(tensor, code, 8 * sizeof(T)))
    throw py::type_error(std::string(name) + " has the wrong dtype (DLPack type code " +
                         text(tensor.dtype.code) + " with " + text(tensor.dtype.bits) +
                         " bits); steer_kernels.fast has functions that make the outputs");
  const int dimensions = columns == 0 ? 1 : 2;
  if (tensor.ndim != dimensions || tensor.shape[0] != rows ||
      (columns != 0 && tensor.shape[1] != columns))
    throw py::value_error(std::string(name) + " must have shape [" + text(rows) +
                          (columns == 0 ? "" : ", " + text(columns)) + "], got " +
                          shape_of(tensor));
  int64_t step = 1;
  for (int i = dimensions - 1; i >= 0; step *= tensor.shape[i--])
    if (tensor.strides != nullptr && tensor.shape[i] > 1 && tensor.strides[i] != step)
      throw py::value_error(std::string(name) + " must be contiguous, got stride " +
                            text(tensor.strides[i]) + " in dimension " + text(i));
  return data_of<T>(tensor);
}

}  // namespace steer
