#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# example-begin script
# Attention of seqprim on the tensors of PyTorch, without a copy, against PyTorch's own.
#
#     python3 attention.py libattention.so         needs PyTorch; ends with status 77 where there is none
import ctypes
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

library = ctypes.CDLL(sys.argv[1])
pointer_in = ctypes.pythonapi.PyCapsule_GetPointer
pointer_in.restype, pointer_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def attention(q, k, v, is_causal=False):
    """As scaled_dot_product_attention: q [batch, heads, q_len, head_dim], k and v [batch, kv_heads, k_len, head_dim]; on the
    CPU, float32 or bfloat16. No gradients."""
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    # A capsule holds a description of the tensor, and keeps its memory until the capsule is deleted: after the call.
    capsules = [x.detach().__dlpack__() for x in (q, k, v, out)]
    described = [ctypes.c_void_p(pointer_in(capsule, b"dltensor")) for capsule in capsules]
    message = ctypes.create_string_buffer(500)
    if library.attention_forward(*described, ctypes.c_int(is_causal), message, ctypes.c_int(len(message))):
        raise ValueError(message.value.decode())
    return out


def main():
    torch.manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        for is_causal in (False, True):
            # 2 sequences of 300 tokens, 8 query heads that share 2 key heads; stored as a projection gives them, head after
            # token, and seen as attention takes them: strides go along.
            q, k, v = (torch.randn(2, 300, heads, 64, dtype=dtype).transpose(1, 2) for heads in (8, 2, 2))
            expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=is_causal, enable_gqa=True)
            own = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
            error, error_of_torch = ((x - expected).abs().max().item() for x in (attention(q, k, v, is_causal), own))
            print(f"{str(dtype):14} causal {is_causal!s:5}  largest error {error:.1e}, of PyTorch {error_of_torch:.1e}")
            assert error <= 2 * error_of_torch

    try:  # mistakes become exceptions that name them
        attention(torch.zeros(1, 6, 5, 8), torch.zeros(1, 4, 5, 8), torch.zeros(1, 4, 5, 8))
    except ValueError as error:
        assert "heads (6) must be a multiple of kv_heads (4)" in str(error), error
    else:
        raise AssertionError("6 heads cannot share 4")


main()
# example-end script
