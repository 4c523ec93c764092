// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/gpu.cuh>
#include <seqprim/core/tensor.hpp>

namespace seqprim::test {

/// A copy of host numbers in device memory, and back.
template <class T> class device_buffer {
 public:
  device_buffer(const T* host, index_t count) : count_(count) {
    check_cuda(cudaMalloc(&data_, static_cast<std::size_t>(max<index_t>(count, 1)) * sizeof(T)), "cudaMalloc");
    check_cuda(cudaMemcpy(data_, host, static_cast<std::size_t>(count) * sizeof(T), cudaMemcpyHostToDevice),
               "cudaMemcpy");
  }
  device_buffer(const device_buffer&) = delete;
  device_buffer& operator=(const device_buffer&) = delete;
  ~device_buffer() { cudaFree(data_); }

  [[nodiscard]] T* data() const noexcept { return data_; }
  void read(T* host) const {
    check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check_cuda(cudaMemcpy(host, data_, static_cast<std::size_t>(count_) * sizeof(T), cudaMemcpyDeviceToHost),
               "cudaMemcpy");
  }

 private:
  T* data_ = nullptr;
  index_t count_;
};

/// The device twin of a tensor.
template <class T, int Rank> class device_tensor {
 public:
  explicit device_tensor(const tensor<T, Rank>& host) : buffer_(host.data(), host.size()), shape_(host.view()) {}

  [[nodiscard]] tensor_view<T, Rank> view() const noexcept {
    return tensor_view<T, Rank>(buffer_.data(), shape_.extents, shape_.strides);
  }
  void read(tensor<T, Rank>& host) const { buffer_.read(host.data()); }

 private:
  device_buffer<T> buffer_;
  tensor_view<const T, Rank> shape_;
};

}  // namespace seqprim::test
