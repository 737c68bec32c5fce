"""The work that bench.py times, on PyTorch, JAX and ONNX Runtime, each at its best: see `jobs.py`.

What is timed holds no conversion: arrays are where the library wants them, and where it may keep them it does.
"""

import functools

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import Candidate, Refused, start_of
from xprnn.interop import torch as weights
from xprnn.interop.gates import reorder

PEERS = ("torch", "jax", "onnxruntime")


def threads():
    """Return the numbers of threads to try: all cores, which wins where calls are long, then one."""
    return sorted({jobs.cores(), 1}, reverse=True)


# -- PyTorch --------------------------------------------------------------------------------------------------------


def of_torch(job):
    """Return `torch.nn`'s candidates."""
    import torch

    make = {"training": torch_training, "inference": torch_inference, "stream": torch_stream}[job.kind]
    start, use = start_of(job), torch.set_num_threads
    return {f"{n}t": Candidate(make(torch, job, start), functools.partial(use, n)) for n in threads()}


def torch_module(torch, module, params, layer, suffix=""):
    """Return a module with a layer's parameters."""
    held = weights.dump(params, layer)
    module.load_state_dict({key.removesuffix(suffix): torch.tensor(a) for key, a in held.items()})
    return module


def torch_layer(torch, job, start, suffix=""):
    """Return the recurrent module of a job; with the suffix "_l0" its cell for single steps."""
    _, _, I, H, _ = job.shape
    kind = getattr(torch.nn, job.cell + ("Cell" if suffix else ""))
    module = kind(I, H, dtype=getattr(torch, job.dtype))
    return torch_module(torch, module, start.params["0"], start.model.layers[0], suffix)


def torch_training(torch, job, start):
    """Return a training step."""
    layer, linear = torch_layer(torch, job, start), start.model.layers[1]
    readout = torch.nn.Linear(*linear.widths, dtype=getattr(torch, job.dtype))
    torch_module(torch, readout, start.params["1"], linear)
    x, target = torch.tensor(start.x), torch.tensor(start.target)
    optimizer = torch.optim.SGD([*layer.parameters(), *readout.parameters()], lr=jobs.LR)

    def step():
        optimizer.zero_grad()
        loss = 0.5 * (readout(layer(x)[0]) - target).square().sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def torch_inference(torch, job, start):
    """Return a forward pass."""
    layer, x = torch_layer(torch, job, start).eval(), torch.tensor(start.x)

    @torch.inference_mode()
    def run():
        return layer(x)

    return run


def torch_stream(torch, job, start):
    """Return a step that carries its state."""
    cell, x, held = torch_layer(torch, job, start, "_l0").eval(), torch.tensor(start.x), [None]

    @torch.inference_mode()
    def run():
        held[0] = cell(x, held[0])
        return held[0]

    return run


# -- ONNX Runtime ---------------------------------------------------------------------------------------------------


def onnx_candidates(onnxruntime, job, n, fed, bound):
    """Return a node's candidates on n threads; or tell what has no implementation."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    start = start_of(job)
    graph, outputs = onnx_graph(job, start)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n, 1
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        made = fed(session, job, start, outputs), bound(onnxruntime, session, job, start, outputs)
        if job.kind != "stream":  # whose state a step moves
            made[0]()
    except (errors.NotImplemented, errors.RuntimeException, errors.Fail) as error:
        told = str(error).strip().splitlines()[0]
        raise Refused(told.split("Message: ")[-1].split(" : ")[-1]) from error  # what it says itself
    return {f"{n}t fed": Candidate(made[0]), f"{n}t bound": Candidate(made[1])}


def of_onnxruntime(job):
    """Return one node's candidates: by NumPy arrays, and bound to memory of its own."""
    import onnxruntime

    if job.kind == "training":
        raise Refused("trains nothing")
    onnxruntime.set_default_logger_severity(4)  # what it does not take is told once, by us
    fed, bound = (onnx_stream, onnx_stream_bound) if job.kind == "stream" else (onnx_fed, onnx_bound)
    found = {}
    for n in threads():
        found |= onnx_candidates(onnxruntime, job, n, fed, bound)
    return found


def onnx_graph(job, start):
    """Return a model of one node, weights inside, and the names of its outputs; a stream's state is an input."""
    from onnx import helper, numpy_helper

    T, B, I, H, _ = job.shape
    stream, kind = job.kind == "stream", helper.np_dtype_to_tensor_dtype(np.dtype(job.dtype))
    p = {key: reorder(a, job.cell, "xprnn", "onnx", np) for key, a in start.params["0"]["l0"].items()}
    held = {"W": p["W_ih"], "R": p["W_hh"], "B": np.concatenate([p["b_ih"], p["b_hh"]])}
    states = ["h", "c"] if job.cell == "LSTM" else ["h"]
    outputs = ["Y", *(f"Y_{s}" for s in states)]
    begun = ["", *(f"initial_{s}" for s in states)] if stream else []
    rule = {"linear_before_reset": 1} if job.cell == "GRU" else {}
    node = helper.make_node(job.cell, ["X", "W", "R", "B", *begun], outputs, hidden_size=H, **rule)
    inputs = {"X": (1 if stream else T, B, I)} | {name: (1, B, H) for name in begun if name}
    graph = helper.make_graph(
        [node],
        job.cell,
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(a[None], name) for name, a in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=9)
    return model.SerializeToString(), outputs


def onnx_fed(session, job, start, outputs):
    """Return a forward pass."""
    feed = {"X": start.x}
    return lambda: session.run(outputs, feed)


def onnx_bound(ort, session, job, start, outputs):
    """Return a forward pass into memory that is kept."""
    T, B, _, H, _ = job.shape
    binding = session.io_binding()
    binding.bind_ortvalue_input("X", ort.OrtValue.ortvalue_from_numpy(start.x))
    for name in outputs:
        shape = (T, 1, B, H) if name == "Y" else (1, B, H)
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(np.empty(shape, job.dtype)))

    def run():
        session.run_with_iobinding(binding)
        return binding

    return run


def onnx_stream(session, job, start, outputs):
    """Return a step that carries its state."""
    _, B, _, H, _ = job.shape
    feed = {name.replace("Y_", "initial_"): np.zeros((1, B, H), job.dtype) for name in outputs[1:]}
    feed["X"] = start.x[None]

    def run():
        found = session.run(outputs, feed)
        for name, state in zip(outputs[1:], found[1:], strict=True):
            feed[name.replace("Y_", "initial_")] = state
        return found

    return run


def onnx_stream_bound(ort, session, job, start, outputs):
    """Return a step whose state goes to and fro between two places that are kept."""
    _, B, _, H, _ = job.shape
    zeros = np.zeros((1, B, H), job.dtype)
    places = [{name: ort.OrtValue.ortvalue_from_numpy(zeros.copy()) for name in outputs[1:]} for _ in range(2)]
    y, x = ort.OrtValue.ortvalue_from_numpy(zeros[None].copy()), ort.OrtValue.ortvalue_from_numpy(start.x[None])
    bindings = []
    for source, sink in (places, places[::-1]):
        bindings.append(session.io_binding())
        bindings[-1].bind_ortvalue_input("X", x)
        bindings[-1].bind_ortvalue_output("Y", y)
        for name in outputs[1:]:
            bindings[-1].bind_ortvalue_input(name.replace("Y_", "initial_"), source[name])
            bindings[-1].bind_ortvalue_output(name, sink[name])

    def run():
        session.run_with_iobinding(bindings[0])
        bindings.reverse()
        return bindings[1]

    return run


# -- JAX ------------------------------------------------------------------------------------------------------------


def of_jax(job):
    """Return `jax.jit`'s candidates: by how many steps of the scan are unrolled, where steps are small."""
    from benchmarks import jax_layers

    B, H = job.shape[1], job.shape[3]
    if job.kind == "stream":
        return {"jit": Candidate(jax_layers.stream(job, start_of(job)))}
    make = {"training": jax_layers.training, "inference": jax_layers.inference}[job.kind]
    unrolls = (1, 5) if B * H <= 2048 else (1,)
    return {f"unroll {n}": Candidate(make(job, start_of(job), n)) for n in unrolls}
