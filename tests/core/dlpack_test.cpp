// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/dlpack.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <support/catch.hpp>
#include <type_traits>

using namespace seqprim;

namespace {

// What <dlpack/dlpack.h> declares, where the device type is an enumeration.
namespace standard {
enum DLDeviceType : std::int32_t { kDLCPU = 1, kDLCUDA = 2 };
struct DLDevice {
  DLDeviceType device_type;
  std::int32_t device_id;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  dlpack::DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
}  // namespace standard

struct example {
  alignas(8) float data[24] = {};
  std::int64_t shape[2] = {3, 4};
  std::int64_t strides[2] = {1, 5};
  dlpack::DLTensor tensor{data, {dlpack::device_cpu, 0}, 2, {2, 32, 1}, shape, nullptr, 0};
};

}  // namespace

TEST_CASE("dlpack: the structs have the published layout", "[core]") {
  STATIC_REQUIRE(std::is_standard_layout_v<dlpack::DLTensor>);
  STATIC_REQUIRE(offsetof(dlpack::DLTensor, ndim) == 16);
  STATIC_REQUIRE(offsetof(dlpack::DLTensor, dtype) == 20);
  STATIC_REQUIRE(offsetof(dlpack::DLTensor, shape) == 24);
  STATIC_REQUIRE(offsetof(dlpack::DLTensor, byte_offset) == 40);
  STATIC_REQUIRE(offsetof(dlpack::DLManagedTensor, manager_ctx) == 48);
  STATIC_REQUIRE(offsetof(dlpack::DLManagedTensorVersioned, dl_tensor) == 32);
  STATIC_REQUIRE(sizeof(dlpack::DLTensor) == sizeof(standard::DLTensor));
}

TEST_CASE("dlpack: element types have their published codes", "[core]") {
  const auto is = [](dlpack::DLDataType t, int code, int bits) {
    return t.code == code && t.bits == bits && t.lanes == 1;
  };
  REQUIRE(is(dlpack::data_type_of<float>, 2, 32));
  REQUIRE(is(dlpack::data_type_of<double>, 2, 64));
  REQUIRE(is(dlpack::data_type_of<float16>, 2, 16));
  REQUIRE(is(dlpack::data_type_of<bfloat16>, 4, 16));
  REQUIRE(is(dlpack::data_type_of<std::int32_t>, 0, 32));
  REQUIRE(is(dlpack::data_type_of<std::int64_t>, 0, 64));
  REQUIRE(is(dlpack::data_type_of<std::uint8_t>, 1, 8));
  REQUIRE(is(dlpack::data_type_of<bool>, 6, 8));
}

TEST_CASE("from_dlpack: dense and strided tensors name the elements they should", "[core]") {
  example e;
  const auto dense = dlpack::from_dlpack<float, 2>(e.tensor);
  REQUIRE((dense.contiguous() && &dense(2, 3) == e.data + 11));
  e.tensor.strides = e.strides;
  const auto strided = dlpack::from_dlpack<const float, 2>(e.tensor);
  STATIC_REQUIRE(std::is_same_v<decltype(strided), const tensor_view<const float, 2>>);
  REQUIRE(&strided(2, 3) == e.data + 17);
  e.tensor.byte_offset = 8;
  REQUIRE((&dlpack::from_dlpack<float, 2>(e.tensor)(0, 0) == e.data + 2));
  e.tensor.device.device_type = dlpack::device_cuda_host;
  REQUIRE((&dlpack::from_dlpack<float, 2>(e.tensor)(0, 0) == e.data + 2));
}

TEST_CASE("from_dlpack: takes the structs of dlpack.h as well", "[core]") {
  example e;
  const standard::DLTensor t{e.data, {standard::kDLCPU, 0}, 2, {2, 32, 1}, e.shape, e.strides, 0};
  REQUIRE((&dlpack::from_dlpack<float, 2>(t)(1, 1) == e.data + 6));
}

TEST_CASE("from_dlpack: empty tensors need no memory", "[core]") {
  example e;
  e.tensor.data = nullptr;
  e.shape[1] = 0;
  REQUIRE((dlpack::from_dlpack<float, 2>(e.tensor).size() == 0));
}

TEST_CASE("from_dlpack: says what does not fit", "[core][errors]") {
  example e;
  const auto view = [&] { return dlpack::from_dlpack<float, 2>(e.tensor); };
  SECTION("device") {
    e.tensor.device.device_type = dlpack::device_cuda;
    REQUIRE_THROWS_WITH(view(), ContainsSubstring("the tensor lives on device type 2"));
  }
  SECTION("element type") {
    e.tensor.dtype = {4, 16, 1};
    REQUIRE_THROWS_WITH(view(), "from_dlpack: the elements are bfloat16 (code 4), the view is of float32 (code 2)");
  }
  SECTION("integer of the same size") {
    e.tensor.dtype = {0, 32, 1};
    REQUIRE_THROWS_AS(view(), precondition_error);
  }
  SECTION("lanes") {
    e.tensor.dtype.lanes = 4;
    REQUIRE_THROWS_WITH(view(), ContainsSubstring("4 lanes"));
  }
  SECTION("rank") {
    e.tensor.ndim = 3;
    REQUIRE_THROWS_WITH(view(), "from_dlpack: the tensor has 3 axes, the view 2");
  }
  SECTION("shape pointer") {
    e.tensor.shape = nullptr;
    REQUIRE_THROWS_AS(view(), precondition_error);
  }
  SECTION("negative extent") {
    e.shape[0] = -1;
    REQUIRE_THROWS_WITH(view(), "from_dlpack: extent 0 (-1) is negative");
  }
  SECTION("overflow") {
    e.shape[0] = e.shape[1] = std::numeric_limits<std::int64_t>::max();
    REQUIRE_THROWS_AS(view(), precondition_error);
  }
  SECTION("overflow through the strides") {
    e.strides[0] = std::numeric_limits<std::int64_t>::min();
    e.tensor.strides = e.strides;
    REQUIRE_THROWS_AS(view(), precondition_error);
  }
  SECTION("null data") {
    e.tensor.data = nullptr;
    REQUIRE_THROWS_AS(view(), precondition_error);
  }
  SECTION("misaligned through byte_offset") {
    e.tensor.byte_offset = 2;
    REQUIRE_THROWS_WITH(view(), ContainsSubstring("must be aligned to the 4 bytes"));
  }
  SECTION("absurd byte_offset") {
    e.tensor.byte_offset = ~std::uint64_t{0};
    REQUIRE_THROWS_AS(view(), precondition_error);
  }
}

TEST_CASE("from_dlpack: a versioned tensor may forbid writing, and must be of version 1", "[core][errors]") {
  example e;
  dlpack::DLManagedTensorVersioned managed{{1, 1}, nullptr, nullptr, 0, e.tensor};
  REQUIRE((dlpack::from_dlpack<float, 2>(managed).data == e.data));
  managed.flags = dlpack::flag_read_only;
  REQUIRE_THROWS_WITH((dlpack::from_dlpack<float, 2>(managed)),
                      "from_dlpack: the tensor is read-only; view it as const");
  REQUIRE((dlpack::from_dlpack<const float, 2>(managed).data == e.data));
  managed.version.major = 2;
  REQUIRE_THROWS_WITH((dlpack::from_dlpack<const float, 2>(managed)), ContainsSubstring("DLPack version 2.1"));
}

TEST_CASE("dlpack: held calls the deleter exactly once", "[core]") {
  int calls = 0;
  dlpack::DLManagedTensor managed{};
  managed.manager_ctx = &calls;
  managed.deleter = [](dlpack::DLManagedTensor* self) { ++*static_cast<int*>(self->manager_ctx); };
  {
    dlpack::held first(&managed);
    dlpack::held second = std::move(first);
    REQUIRE(&*second == &managed);
    REQUIRE(calls == 0);
  }
  REQUIRE(calls == 1);
  managed.deleter = nullptr;  // allowed: nothing to free
  { dlpack::held unowned(&managed); }
  REQUIRE(calls == 1);
}

TEST_CASE("dlpack: a view described for a consumer comes back as the same view", "[core][property]") {
  tensor<bfloat16, 3> t(2, 3, 4);
  const auto v = t.view().transposed(0, 2).slice(1, {1, 3});
  dlpack::described description(v);
  const auto back = dlpack::from_dlpack<bfloat16, 3>(description.get());
  REQUIRE(back.data == v.data);
  for (int axis = 0; axis < 3; ++axis) {
    REQUIRE(back.extent(axis) == v.extent(axis));
    REQUIRE(back.stride(axis) == v.stride(axis));
  }
}

TEST_CASE("dlpack: a tensor handed over lives until the consumer is done", "[core]") {
  tensor<float, 2> t(2, 3);
  t(1, 2) = 5.0f;
  const float* address = t.data();
  dlpack::held owner(dlpack::to_dlpack(std::move(t)));
  const auto v = dlpack::from_dlpack<float, 2>(*owner);
  REQUIRE((v.data == address && v(1, 2) == 5.0f));
}
