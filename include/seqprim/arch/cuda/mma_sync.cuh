// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/float16.hpp>

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace seqprim::arch::cuda {

/// The instructions of one lane of a warp on sm_80 and newer: products of float16 or bfloat16 with float sums (mma.sync), matrices
/// from shared memory into registers (ldmatrix), copies that overlap the arithmetic (cp.async).
///
/// Algorithms take the engine as a template parameter and value, so that a host test runs them on an emulated block of lanes, and
/// an engine of another generation is another type. Every function is for all lanes of a warp together, unless it says
/// otherwise. Page: docs/reference/arch/cuda.md
struct mma_sync {
  static constexpr const char* name = "mma_sync";

  [[nodiscard]] __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x % warp_lanes); }
  /// The same in all lanes of a warp, and known to be: what follows from it needs no predicate.
  [[nodiscard]] __device__ __forceinline__ int warp() const {
    return static_cast<int>(__shfl_sync(0xffffffffu, threadIdx.x / warp_lanes, 0));
  }

  /// The index of the block in the grid. Read each time: what follows from it need not stay in registers for long.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t block() const {
    std::uint32_t index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
  }

  /// An address in shared memory, counted in bytes: `address + n` is n bytes further. Half the registers of a pointer.
  using address = std::uint32_t;
  [[nodiscard]] __device__ __forceinline__ address address_of(const void* shared) const {
    return static_cast<address>(__cvta_generic_to_shared(shared));
  }

  /// c[16, 8] += a[16, 16] b[16, 8]; T is float16 or bfloat16, two elements per register. Coordinates: fragment.hpp.
  template <class T>
  __device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                           std::uint32_t b1) const {
    if constexpr (std::is_same_v<T, bfloat16>) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      static_assert(std::is_same_v<T, float16>, "seqprim: mma_sync multiplies float16 and bfloat16");
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }

  /// Four 8 x 8 matrices of 16-bit elements; each lane addresses one row of 16 bytes in shared memory.
  __device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], address row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
  }
  __device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const void* row) const {
    load_matrices(r, address_of(row));
  }
  /// The same, each matrix transposed.
  __device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], address row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
  }
  __device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) const {
    load_matrices_transposed(r, address_of(row));
  }

  /// Writes one element of shared memory, with a plain store. The other lanes of the warp may read it after sync_warp(), those of the
  /// block after sync_block(), and the lane itself not before either: what it needs again stays in a register. One lane.
  template <class T> __device__ __forceinline__ void store(T* shared, const std::type_identity_t<T>& value) const {
    *shared = value;
  }

  /// Reads one element of shared memory that another lane of the warp will overwrite. Between the two stands a barrier: shuffles and
  /// votes order no memory. Where a barrier of the block does, and for matrices, a plain load will do. One lane.
  template <class T> [[nodiscard]] __device__ __forceinline__ T load(const T* shared) const { return *shared; }

  /// store() for an element of global memory through which the lanes of a block exchange values.
  template <class T>
  __device__ __forceinline__ void store_global(T* place, const std::type_identity_t<T>& value) const {
    *place = value;
  }

  /// Begins to copy the first `bytes` (0..16) of 16 bytes from global to shared memory and to set the rest to zero. Both
  /// addresses are multiples of 16 bytes; with 0 bytes nothing is read. Any lane alone.
  __device__ __forceinline__ void copy_async(address shared, const void* global, int bytes) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
  }
  __device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes) const {
    copy_async(address_of(shared), global, bytes);
  }
  /// Closes a group of copies; groups finish in order.
  __device__ __forceinline__ void commit_copies() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  /// Waits until at most `Pending` of this lane's newest groups are unfinished; other lanes see the data after sync_block().
  template <int Pending> __device__ __forceinline__ void wait_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  }

  __device__ __forceinline__ void sync_block() const { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }

  /// The value that lane ^ mask holds.
  [[nodiscard]] __device__ __forceinline__ float shuffle_xor(float x, int mask) const {
    return __shfl_xor_sync(0xffffffffu, x, mask);
  }
  /// The value that one lane holds.
  [[nodiscard]] __device__ __forceinline__ float shuffle(float x, int lane) const {
    return __shfl_sync(0xffffffffu, x, lane);
  }
  /// True when it is for any lane.
  [[nodiscard]] __device__ __forceinline__ bool any(bool condition) const {
    return __any_sync(0xffffffffu, condition) != 0;
  }
  /// Bit n: what it is for lane n.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t ballot(bool condition) const {
    return __ballot_sync(0xffffffffu, condition);
  }
  /// The lanes that hold the value of this one, one bit each.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t matching(std::uint32_t value) const {
    return __match_any_sync(0xffffffffu, value);
  }

  /// 2^x, relative error about 2^-22; 0 for -inf. One lane.
  [[nodiscard]] __device__ __forceinline__ float exp2(float x) const {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

  /// Two elements rounded to nearest even, `low` in the lower half. One lane.
  template <class T> [[nodiscard]] __device__ __forceinline__ std::uint32_t pack(float low, float high) const {
    std::uint32_t bits;
    if constexpr (std::is_same_v<T, bfloat16>) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    } else {
      static_assert(std::is_same_v<T, float16>, "seqprim: mma_sync packs float16 and bfloat16");
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    }
    return bits;
  }
};

}  // namespace seqprim::arch::cuda
