// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/float16.hpp>
#include <seqprim/core/raw.hpp>
#include <seqprim/core/tensor.hpp>

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

/// Exchange of arrays with PyTorch, JAX, NumPy, CuPy ... through the structs of DLPack (https://dmlc.github.io/dlpack).
/// The functions take any structs with the members of the standard: those below, or ::DLTensor of <dlpack/dlpack.h>.
/// Page: docs/reference/core/adapters.md
namespace seqprim::dlpack {

// The public binary interface, under its published names; layout as in dlpack.h 1.0.
struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  ///< in elements; null means dense row-major
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};
struct DLPackVersion {
  std::uint32_t major;
  std::uint32_t minor;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  std::uint64_t flags;
  DLTensor dl_tensor;
};
static_assert(sizeof(void*) != 8 ||
              (sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64 && sizeof(DLManagedTensorVersioned) == 80));

inline constexpr std::int32_t device_cpu = 1;        ///< kDLCPU
inline constexpr std::int32_t device_cuda = 2;       ///< kDLCUDA
inline constexpr std::int32_t device_cuda_host = 3;  ///< kDLCUDAHost: pinned host memory
inline constexpr std::uint64_t flag_read_only = 1;   ///< DLPACK_FLAG_BITMASK_READ_ONLY

/// What DLPack calls the element type T: code (0 int, 1 uint, 2 float, 4 bfloat, 6 bool), bits, lanes.
template <class T>
requires(std::is_arithmetic_v<T> || std::same_as<T, float16> ||
         std::same_as<T, bfloat16>) inline constexpr DLDataType data_type_of{
    static_cast<std::uint8_t>(std::same_as<T, bool>                                     ? 6
                              : std::same_as<T, bfloat16>                               ? 4
                              : std::same_as<T, float16> || std::is_floating_point_v<T> ? 2
                              : std::is_unsigned_v<T>                                   ? 1
                                                                                        : 0),
    static_cast<std::uint8_t>(8 * sizeof(T)), 1};

/// A struct with the members of DLTensor.
template <class D> concept tensor_like = requires(const D& d) {
  { d.data } -> std::convertible_to<const void*>;
  d.device.device_type;
  { d.ndim } -> std::convertible_to<std::int32_t>;
  { d.dtype.code } -> std::convertible_to<int>;
  { d.dtype.bits } -> std::convertible_to<int>;
  { d.dtype.lanes } -> std::convertible_to<int>;
  { d.shape } -> std::convertible_to<const std::int64_t*>;
  { d.strides } -> std::convertible_to<const std::int64_t*>;
  { d.byte_offset } -> std::convertible_to<std::uint64_t>;
};

/// A struct with the members of DLManagedTensor or DLManagedTensorVersioned.
template <class M> concept managed_like = tensor_like<decltype(std::declval<M&>().dl_tensor)> && requires(M m) {
  m.deleter(&m);
};

namespace detail {

inline const char* name_of_code(int code) noexcept {
  switch (code) {
    case 0: return "int";
    case 1: return "uint";
    case 2: return "float";
    case 3: return "handle";
    case 4: return "bfloat";
    case 5: return "complex";
    case 6: return "bool";
    default: return "code";
  }
}

}  // namespace detail

/// View of a DLPack tensor in host memory. T is the element type, const for reading only; nothing is copied, and the
/// producer's memory must outlive the view.
///
/// Shapes  ndim must be Rank; null strides mean dense; byte_offset is added to data.
/// Errors  precondition_error, naming what was found and what was needed: device that the host cannot read, element
///         type, vector lanes, rank, negative extent, size past 2^63 - 1 bytes, null shape or data, misaligned data.
template <class T, int Rank, tensor_like D> [[nodiscard]] tensor_view<T, Rank> from_dlpack(const D& d) {
  constexpr DLDataType wanted = data_type_of<std::remove_const_t<T>>;
  const auto device = static_cast<std::int32_t>(d.device.device_type);
  SEQPRIM_EXPECTS(device == device_cpu || device == device_cuda_host, "from_dlpack: the tensor lives on device type ",
                  device, "; a host view needs 1 (CPU) or 3 (pinned host memory). Copy it to the host first");
  const int code = d.dtype.code, bits = d.dtype.bits, lanes = d.dtype.lanes;
  SEQPRIM_EXPECTS(code == int{wanted.code} && bits == int{wanted.bits}, "from_dlpack: the elements are ",
                  detail::name_of_code(code), bits, " (code ", code, "), the view is of ",
                  detail::name_of_code(wanted.code), int{wanted.bits}, " (code ", int{wanted.code}, ")");
  SEQPRIM_EXPECTS(lanes == 1, "from_dlpack: an element has ", lanes, " lanes; only 1 is supported");
  const auto ndim = static_cast<std::int32_t>(d.ndim);
  SEQPRIM_EXPECTS(ndim == Rank, "from_dlpack: the tensor has ", ndim, " axes, the view ", Rank);
  SEQPRIM_EXPECTS(d.shape != nullptr, "from_dlpack: the shape pointer is null");
  index_t extents[Rank];
  for (int axis = 0; axis < Rank; ++axis) extents[axis] = d.shape[axis];
  index_t strides[Rank];
  const seqprim::detail::dense_strides<Rank> dense(extents);
  for (int axis = 0; axis < Rank; ++axis)
    strides[axis] = d.strides != nullptr ? index_t{d.strides[axis]} : dense.values[axis];
  SEQPRIM_EXPECTS(d.byte_offset <= static_cast<std::uint64_t>(std::numeric_limits<index_t>::max()),
                  "from_dlpack: byte_offset (", std::uint64_t{d.byte_offset}, ") is impossibly large");
  T* data = d.data == nullptr
                ? nullptr
                : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(d.data) + std::uintptr_t{d.byte_offset});
  seqprim::detail::expect_valid_array("from_dlpack", data, extents, strides);
  return {data, extents, strides};
}

/// The same for a managed tensor; a versioned one must have major version 1, and may forbid writing.
///
/// Errors  as above; a mutable view of read-only data; an unknown major version.
template <class T, int Rank, managed_like M> [[nodiscard]] tensor_view<T, Rank> from_dlpack(const M& managed) {
  if constexpr (requires { managed.version.major; }) {
    SEQPRIM_EXPECTS(managed.version.major == 1, "from_dlpack: DLPack version ", managed.version.major, ".",
                    managed.version.minor, " is not known; 1.x is");
    SEQPRIM_EXPECTS(std::is_const_v<T> || (managed.flags & flag_read_only) == 0,
                    "from_dlpack: the tensor is read-only; view it as const");
  }
  return from_dlpack<T, Rank>(managed.dl_tensor);
}

/// Holds a managed tensor and calls its deleter once at the end.
template <managed_like M> class held {
 public:
  explicit held(M* managed) noexcept : managed_(managed) {}
  held(held&& other) noexcept : managed_(std::exchange(other.managed_, nullptr)) {}
  held& operator=(held other) noexcept {
    std::swap(managed_, other.managed_);
    return *this;
  }
  ~held() {
    if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
  }
  [[nodiscard]] const M& operator*() const noexcept { return *managed_; }

 private:
  M* managed_;
};

/// A view, described for a DLPack consumer. Owns the description, not the data: both must live while the consumer
/// reads. DLPack before 1.0 cannot express const: a consumer of a view of const elements must not write.
template <class T, int Rank> class described {
 public:
  explicit described(const tensor_view<T, Rank>& view) noexcept {
    for (int axis = 0; axis < Rank; ++axis) {
      shape_[axis] = view.extents[axis];
      strides_[axis] = view.strides[axis];
    }
    tensor_ = {.data = const_cast<std::remove_const_t<T>*>(view.data),
               .device = {device_cpu, 0},
               .ndim = Rank,
               .dtype = data_type_of<std::remove_const_t<T>>,
               .shape = shape_,
               .strides = strides_,
               .byte_offset = 0};
  }
  described(const described&) = delete;  // the description points into itself
  described& operator=(const described&) = delete;

  [[nodiscard]] DLTensor& get() noexcept { return tensor_; }

 private:
  std::int64_t shape_[Rank];
  std::int64_t strides_[Rank];
  DLTensor tensor_;
};

/// Transfers a tensor to a DLPack consumer, which calls the deleter of the result when done. Allocates one record.
template <class T, int Rank> [[nodiscard]] DLManagedTensor* to_dlpack(tensor<T, Rank>&& owner) {
  struct package {
    explicit package(tensor<T, Rank>&& given) : data(std::move(given)), description(data.view()) {}
    tensor<T, Rank> data;
    described<T, Rank> description;
    DLManagedTensor managed{};
  };
  auto* p = new package(std::move(owner));
  p->managed = {.dl_tensor = p->description.get(), .manager_ctx = p, .deleter = [](DLManagedTensor* self) {
                  delete static_cast<package*>(self->manager_ctx);
                }};
  return &p->managed;
}

}  // namespace seqprim::dlpack
