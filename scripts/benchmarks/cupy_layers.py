"""The part of bench.py for CUDA: a layer on CuPy by CUDA events, beside PyTorch's cuDNN on the same device.

    python scripts/bench.py --backend cupy

Every kernel that takes the shape is timed, the one that `select` chooses is starred, and beside the time of a forward
step stands the floor that the cost model of `xprnn/kernels/cupy_/cost.py` gives, which is on paper.
"""

import statistics

import numpy as np

import xprnn
from xprnn.kernels import KERNELS, explain

SHAPES = [
    (100, 1, 64, 64),
    (100, 32, 64, 128),
    (100, 64, 64, 256),
    (100, 1, 256, 512),
    (100, 4, 256, 1024),
    (128, 64, 256, 1024),
]
"""(T, B, I, H)."""

TINY = [(3, 2, 4, 5)]
"""Where the device is emulated, to see that this file runs."""


def events(cupy, run, rounds):
    """Return the median milliseconds of a call, by CUDA events."""
    run()
    times = []
    for _ in range(rounds):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop))
    return statistics.median(times)


def passes(layer, T, B, I, dtype, cupy, kernel):
    """Return a forward pass and a training step without an update, to be called."""
    x = cupy.asarray(np.random.default_rng(0).standard_normal((T, B, I)).astype(dtype))
    params, dy = layer.init(0, like=x), cupy.ones((T, B, layer.widths[1]), x.dtype)

    def step():
        _, _, cache = layer.forward(params, x, kernel=kernel)
        layer.backward(params, cache, dy)

    return lambda: layer(params, x, kernel=kernel), step


def cudnn(name, T, B, I, H, dtype):
    """Return the same of `torch.nn`, or None where PyTorch has no device."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    kind = getattr(torch, dtype)
    layer = getattr(torch.nn, name)(I, H, device="cuda", dtype=kind)
    x = torch.randn(T, B, I, device="cuda", dtype=kind)
    dy = torch.ones(T, B, H, device="cuda", dtype=kind)

    def forward():
        with torch.no_grad():
            layer(x)

    def step():
        layer.zero_grad()
        layer(x)[0].backward(dy)

    return forward, step, lambda run, rounds: torch_events(torch, run, rounds)


def torch_events(torch, run, rounds):
    """Return the median milliseconds of a call, by PyTorch's CUDA events."""
    run()
    times = []
    for _ in range(rounds):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def floor(cost, cell, dtype, B, H, kernel):
    """Return the model's microseconds of a forward step, or a dash."""
    if kernel not in ("cupy_stepwise", "cupy_persistent"):
        return "-"
    from xprnn.kernels.cupy_ import passes

    found = getattr(cost, kernel.removeprefix("cupy_"))(cell, np.dtype(dtype), B, H, passes.limits())
    return f"{1e6 * found.seconds:.1f}"


def model():
    """Print the cost model of a step on an H100: it needs CuPy, but no device."""
    from xprnn.kernels.cupy_ import cost
    from xprnn.kernels.cupy_.passes import Limits

    h100 = Limits(shared=227 * 1024, processors=132, cooperative=True)
    print("| a step, float32, (B, H) | path | launches | Mflop | forward: MB | floor, µs | backward: MB | floor, µs |")
    print("|---|---|---|---|---|---|---|---|")
    for _, B, _, H in SHAPES:
        for name in ("RNN", "GRU", "LSTM"):
            cell = getattr(xprnn, name)(1, H).cell
            for path in (cost.stepwise, cost.persistent):
                there, back = (path(cell, np.dtype("float32"), B, H, h100, backward=way) for way in (False, True))
                told = f"| {name} ({B}, {H}) | {path.__name__} "
                if there is None or back is None:
                    print(f"{told}| does not fit | | | | | |")
                    continue
                figures = " | ".join(f"{c.bytes / 1e6:.2f} | {1e6 * c.seconds:.1f}" for c in (there, back))
                print(f"{told}| {there.launches} | {there.flops / 1e6:.2f} | {figures} |")


def rows(cupy, name, shape, dtype, rounds):
    """Yield the lines of one shape: every kernel that takes it, then cuDNN."""
    from xprnn.kernels.cupy_ import cost

    T, B, I, H = shape
    layer = getattr(xprnn, name)(I, H)
    chosen = explain(layer, cupy.empty((T, B, I), dtype)).kernel
    told = f"| {name} {shape} {dtype} "
    for kernel in ("cupy_persistent", "cupy_stepwise", "reference"):
        refusal = None
        if kernel != "reference":
            refusal = KERNELS[kernel].load().takes(layer.cell, xprnn.scan.NOTHING, np.dtype(dtype), (T, B, H))
        if refusal:
            yield f"{told}| {kernel} | does not fit | | | |"
            continue
        forward, step = passes(layer, T, B, I, dtype, cupy, kernel)
        there, both = events(cupy, forward, rounds), events(cupy, step, rounds)
        star = "*" if kernel == chosen else ""
        model = floor(cost, layer.cell, dtype, B, H, kernel)
        yield f"{told}| {kernel}{star} | {there:.3f} | {1e3 * there / T:.1f} | {model} | {both:.3f} |"
    if other := cudnn(name, *shape, dtype):
        forward, step, measure = other
        there, both = measure(forward, rounds), measure(step, rounds)
        yield f"{told}| cuDNN (torch) | {there:.3f} | {1e3 * there / T:.1f} | - | {both:.3f} |"


def main():
    """Print the table."""
    import cupy

    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    emulated = "not a GPU" in device
    print(f"{device}; CuPy {cupy.__version__}, xprnn {xprnn.__version__}")
    if emulated:
        print("!! an emulated device: these times mean nothing !!")
    print("| layer (T, B, I, H) dtype | kernel | forward, ms | of a step, µs | model's floor, µs | training step, ms |")
    print("|---|---|---|---|---|---|")
    for shape in TINY if emulated else SHAPES:
        for name in ("RNN", "GRU", "LSTM"):
            for line in rows(cupy, name, shape, "float32", 1 if emulated else 15):
                print(line, flush=True)
