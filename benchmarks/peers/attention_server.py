#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention of one library on one thread, for benchmarks/report/peers.py: a process that is given cases and times them.

    attention_server.py LIBRARY [--shared-object FILE]       seqprim, torch, onnxruntime, openvino, ggml or onednn

Each line of the input is a JSON object and is answered with one line:

    {"about": true}                          -> {"version": ...}
    {"prepare": case, "folder": F}           -> {"implementations": [names], "left_out": {name: why}}
    {"check": largest relative error}        -> {"implementation": the fastest that is right, "error": its error, "left_out": ...}
    {"seconds": how long to measure}         -> {"microseconds": median of the calls, "calls": how many}

or {"error": why not}. A case is {"op": "forward" or "decode", "type": "float" or "bfloat16", "mask": "full" or "causal",
"heads", "q_len", "k_len", "dim"}. All libraries get the same inputs, in the layout that each takes; an implementation is whatever a
library offers for the case. seqprim leaves its result in F, and the others are compared with it.
"""
import argparse
import ctypes
import json
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DPCPP_CPU_NUM_CUS", "TBB_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402


def to_bfloat16(x):
    """The upper halves of float32 values, rounded, as uint16."""
    return ((x.view(np.uint32) + 0x7FFF + ((x.view(np.uint32) >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Problem:
    """One case with its inputs: q, k, v [heads, len, dim] as float32, for bfloat16 already rounded to it."""

    def __init__(self, case):
        self.is_bfloat16, self.causal, self.decodes = case["type"] == "bfloat16", case["mask"] == "causal", case["op"] == "decode"
        self.heads, self.q_len, self.k_len, self.dim = case["heads"], case["q_len"], case["k_len"], case["dim"]
        random = np.random.default_rng(1)
        arrays = [random.standard_normal((self.heads, n, self.dim), dtype=np.float32) for n in (self.q_len, self.k_len, self.k_len)]
        self.q, self.k, self.v = (from_bfloat16(to_bfloat16(x)) for x in arrays) if self.is_bfloat16 else arrays

    def stored(self, x):
        """In the type of the case: float32, or bfloat16 as uint16."""
        return np.ascontiguousarray(to_bfloat16(x) if self.is_bfloat16 else x)

    def as_float(self, x):
        return from_bfloat16(x) if x.dtype == np.uint16 else x.astype(np.float32)


class Library:
    """What every library offers: implementations(problem) yields (name, make); make() gives (call, result): a function to be timed
    and one that returns what it computed as float32 [heads, q_len, dim]."""

    def __init__(self, shared_object):
        self.shared_object = shared_object

    def release(self):
        """Frees what Python does not, before the next case."""


class Seqprim(Library):
    def load(self):
        self.library = ctypes.CDLL(self.shared_object)
        self.library.seqprim_isa.restype = ctypes.c_char_p
        return self.library.seqprim_isa().decode()

    def implementations(self, problem):
        def make():
            inputs = [problem.stored(x) for x in (problem.q, problem.k, problem.v)]
            out = np.empty_like(inputs[0])
            message = ctypes.create_string_buffer(500)
            sizes = [ctypes.c_int64(n) for n in (problem.heads, problem.q_len, problem.k_len, problem.dim)]
            pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*inputs, out)]
            choices = [ctypes.c_int(c) for c in (problem.is_bfloat16, problem.decodes, problem.causal)]

            def call(keep=inputs):
                if self.library.seqprim_attention(*choices, *sizes, *pointers, message, ctypes.c_int(len(message))):
                    raise RuntimeError(message.value.decode())

            return call, lambda: problem.as_float(out)

        yield "decode" if problem.decodes else "forward", make


class Torch(Library):
    def load(self):
        import torch
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self.torch = torch
        return f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"

    def implementations(self, problem):
        torch = self.torch
        dtype = torch.bfloat16 if problem.is_bfloat16 else torch.float32

        def make():
            inputs = [torch.from_numpy(x).to(dtype)[None] for x in (problem.q, problem.k, problem.v)]
            latest = []

            def call():
                latest[:] = [torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=problem.causal)]

            return call, lambda: latest[0][0].float().numpy()

        yield "scaled_dot_product_attention", make


class OnnxRuntime(Library):
    def load(self):
        import onnx
        import onnxruntime
        self.onnx, self.runtime = onnx, onnxruntime
        return onnxruntime.__version__

    def make(self, problem, node, domain, opset, inputs, out_shape):
        """One node, its inputs and output bound once."""
        onnx, runtime = self.onnx, self.runtime
        element = onnx.TensorProto.BFLOAT16 if problem.is_bfloat16 else onnx.TensorProto.FLOAT
        value = lambda name, shape: onnx.helper.make_tensor_value_info(name, element, shape)
        graph = onnx.helper.make_graph([node], "attention", [value(n, x.shape) for n, x in zip("qkv", inputs)], [value("out", out_shape)])
        opsets = [onnx.helper.make_opsetid("", opset)] + ([onnx.helper.make_opsetid(domain, 1)] if domain else [])
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        out = np.empty(out_shape, inputs[0].dtype)
        binding = session.io_binding()
        for name, x in zip("qkv", inputs):
            binding.bind_input(name, "cpu", 0, element, x.shape, x.ctypes.data)
        binding.bind_output("out", "cpu", 0, element, out_shape, out.ctypes.data)

        def call(keep=inputs):
            session.run_with_iobinding(binding)

        return call, lambda: problem.as_float(out)

    def implementations(self, problem):
        make_node = self.onnx.helper.make_node
        stored = [problem.stored(x) for x in (problem.q, problem.k, problem.v)]
        shape = (1, problem.heads, problem.q_len, problem.dim)

        def of_opset():
            node = make_node("Attention", ["q", "k", "v"], ["out"], is_causal=int(problem.causal))
            return self.make(problem, node, "", 23, [x[None] for x in stored], shape)

        def multi_head():
            # Its own layout: [batch, len, heads * dim].
            rows = [np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(1, x.shape[1], -1) for x in stored]
            node = make_node("MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft", num_heads=problem.heads,
                             unidirectional=int(problem.causal))
            call, result = self.make(problem, node, "com.microsoft", 17, rows, rows[0].shape)
            return call, lambda: result().reshape(problem.q_len, problem.heads, problem.dim).transpose(1, 0, 2)

        yield "Attention", of_opset
        yield "MultiHeadAttention", multi_head


class OpenVino(Library):
    def load(self):
        import openvino
        self.openvino = openvino
        self.core = openvino.Core()
        return openvino.__version__.split("-")[0]

    def implementations(self, problem):
        ov = self.openvino

        def make():
            from openvino import opset13 as ops
            element = ov.Type.bf16 if problem.is_bfloat16 else ov.Type.f32
            stored = [problem.stored(x)[None] for x in (problem.q, problem.k, problem.v)]
            parameters = [ops.parameter(x.shape, element) for x in stored]
            model = ov.Model([ops.scaled_dot_product_attention(*parameters, causal=problem.causal)], parameters)
            compiled = self.core.compile_model(model, "CPU", {
                "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": "bf16" if problem.is_bfloat16 else "f32"})
            request = compiled.create_infer_request()
            tensors = [ov.Tensor(x, x.shape, element) for x in stored]
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            out = np.empty_like(stored[0])
            request.set_output_tensor(0, ov.Tensor(out, out.shape, element))

            def call(keep=tensors):
                request.infer()

            return call, lambda: problem.as_float(out)

        yield "ScaledDotProductAttention", make


class Ggml(Library):
    def load(self):
        import ggml
        import importlib.metadata
        self.ggml, self.contexts = ggml, []
        return f"of ggml-python {importlib.metadata.version('ggml-python')}"

    def release(self):
        while self.contexts:
            self.ggml.ggml_free(self.contexts.pop())

    def implementations(self, problem):
        if not problem.is_bfloat16:
            yield "flash_attn_ext, float32", lambda: self.make(problem, "F32", problem.k, problem.v)
            return
        yield "flash_attn_ext, float16 keys", lambda: self.make(
            problem, "F16", problem.k.astype(np.float16), problem.v.astype(np.float16))
        yield "flash_attn_ext, bfloat16 keys", lambda: self.make(
            problem, "BF16", to_bfloat16(problem.k), to_bfloat16(problem.v))

    def make(self, problem, key_type, k, v):
        g = self.ggml
        heads, q_len, k_len, dim = problem.heads, problem.q_len, problem.k_len, problem.dim
        rows = -(-q_len // 64) * 64
        context = g.ggml_init(g.ggml_init_params(mem_size=(64 << 20) + 4 * (2 * heads * (q_len + k_len) * dim + rows * k_len),
                                                 mem_buffer=None, no_alloc=False))
        self.contexts.append(context)

        def filled(element, values, *shape):
            tensor = g.ggml_new_tensor_4d(context, element, *shape, *[1] * (4 - len(shape)))
            values = np.ascontiguousarray(values)
            ctypes.memmove(g.ggml_get_data(tensor), values.ctypes.data, values.nbytes)
            return tensor

        element = getattr(g, f"GGML_TYPE_{key_type}")
        inputs = [filled(g.GGML_TYPE_F32, problem.q, dim, q_len, heads), filled(element, k, dim, k_len, heads),
                  filled(element, v, dim, k_len, heads)]
        mask = None
        if problem.causal:
            hidden = np.triu(np.full((rows, k_len), -np.inf, np.float32), 1).astype(np.float16)
            mask = filled(g.GGML_TYPE_F16, hidden, k_len, rows)
        out = g.ggml_flash_attn_ext(context, *inputs, mask, dim**-0.5, 0.0, 0.0)
        graph = g.ggml_new_graph(context)
        g.ggml_build_forward_expand(graph, out)
        plan = g.ggml_graph_plan(graph, 1, None)
        work = ctypes.create_string_buffer(plan.work_size + 64)
        plan.work_data = ctypes.cast(work, type(plan.work_data)) if plan.work_size else None

        def call(keep=work):
            if g.ggml_graph_compute(graph, ctypes.byref(plan)) != 0:
                raise RuntimeError("ggml_graph_compute failed")

        def result():  # [q_len, heads, dim]
            values = np.empty((q_len, heads, dim), np.float32)
            ctypes.memmove(values.ctypes.data, g.ggml_get_data(out), values.nbytes)
            return values.transpose(1, 0, 2)

        return call, result


class OneDnn(Library):
    def load(self):
        self.library = ctypes.CDLL(self.shared_object or os.path.join(sys.prefix, "onednn_attention.so"))
        self.library.onednn_prepare.restype = ctypes.c_void_p
        self.library.onednn_version.restype = ctypes.c_char_p
        self.handles = []
        return self.library.onednn_version().decode()

    def release(self):
        while self.handles:
            self.library.onednn_free(ctypes.c_void_p(self.handles.pop()))

    def implementations(self, problem):
        def make():
            inputs = [problem.stored(x) for x in (problem.q, problem.k, problem.v)]
            message = ctypes.create_string_buffer(500)
            size = ctypes.c_int(len(message))
            sizes = [ctypes.c_int64(n) for n in (problem.heads, problem.q_len, problem.k_len, problem.dim)]
            handle = self.library.onednn_prepare(
                ctypes.c_int(problem.is_bfloat16), ctypes.c_int(problem.causal), *sizes,
                *(ctypes.c_void_p(x.ctypes.data) for x in inputs), message, size)
            if not handle:
                raise RuntimeError(message.value.decode())
            self.handles.append(handle)

            def call():
                if self.library.onednn_run(ctypes.c_void_p(handle), message, size):
                    raise RuntimeError(message.value.decode())

            def result():
                out = np.empty_like(inputs[0])
                self.library.onednn_result(ctypes.c_void_p(handle), ctypes.c_void_p(out.ctypes.data))
                return problem.as_float(out)

            return call, result

        yield "graph, mask added" if problem.causal else "graph", make


LIBRARIES = {"seqprim": Seqprim, "torch": Torch, "onnxruntime": OnnxRuntime, "openvino": OpenVino, "ggml": Ggml, "onednn": OneDnn}


def reason(error):
    return (f"{type(error).__name__}: {error}".strip().splitlines() or ["?"])[0][:200]


class Server:
    def __init__(self, name, shared_object):
        self.name, self.library = name, LIBRARIES[name](shared_object)
        self.version = self.library.load()
        self.ready, self.left_out = {}, {}

    def prepare(self, request):
        self.ready, self.left_out, self.call = {}, {}, None
        self.library.release()
        self.result_file = os.path.join(request["folder"], "result.npy")
        for name, make in self.library.implementations(Problem(request["prepare"])):
            try:
                self.ready[name] = make()
                self.ready[name][0]()
            except Exception as error:  # a type or mask that it does not have
                self.ready.pop(name, None)
                self.left_out[name] = reason(error)
        return {"implementations": list(self.ready), "left_out": self.left_out}

    def check(self, limit):
        """Keeps the fastest implementation whose result is that of seqprim."""
        best = None
        for name, (call, result) in self.ready.items():
            values = result()
            if self.name == "seqprim":
                np.save(self.result_file, values)
            expected = np.load(self.result_file)
            error = float(np.abs(values - expected).max() / np.abs(expected).max())
            if not error <= limit:
                self.left_out[name] = f"another result: relative error {error:.1e}"
                continue
            took = min(timed(call) for _ in range(2))
            if best is None or took < best[0]:
                best = took, name, error, call
        if best is None:
            return {"error": "; ".join(f"{name}: {why}" for name, why in self.left_out.items())}
        self.call = best[3]
        return {"implementation": best[1], "error_of_result": best[2], "left_out": self.left_out}

    def measure(self, seconds):
        first = timed(self.call)  # brings its memory back into the caches
        times = [first] if first > seconds else []
        start = time.perf_counter()
        while not times or time.perf_counter() - start < seconds:
            times.append(timed(self.call))
        times.sort()
        return {"microseconds": 1e6 * times[len(times) // 2], "calls": len(times)}

    def answer(self, request):
        if "about" in request:
            return {"version": self.version}
        if "prepare" in request:
            return self.prepare(request)
        if "check" in request:
            return self.check(request["check"])
        return self.measure(request["seconds"])


def timed(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--shared-object", help="of seqprim or of oneDNN")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the answers
    os.dup2(2, 1)
    server = None
    for line in sys.stdin:
        try:
            if server is None:
                server = Server(arguments.library, arguments.shared_object)
            answer = server.answer(json.loads(line))
        except Exception as error:  # whatever it is, the other side shall know, and go on
            answer = {"error": reason(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
