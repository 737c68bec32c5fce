"""What the figures of bench.py hang on: the machine, its libraries, and what it can do at most (`rates.py`)."""

import importlib.metadata
import os
import pathlib
import platform
import re

import xprnn
from benchmarks import features, process
from benchmarks.jobs import cores
from benchmarks.process import Side

LIBRARIES = ("numpy", "llvmlite", "torch", "jax", "jaxlib", "onnxruntime")

BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""The variables by which NumPy's products are held to a number of threads, whichever library does them."""

LOADED = 0.5
"""The load from which on others disturb what is timed."""


def version(library):
    """Return the version of a library, or that there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def load():
    """Return how many processes wanted to run in the last minute, or None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def measure(start=Side):
    """Return the rates of products per dtype and how, their best, and the bandwidth of memory."""
    found = {"products": {"float32": {}, "float64": {}}}
    for n in sorted({1, cores()}):
        side = start("machine", **dict.fromkeys(BLAS, str(n)))
        try:
            for dtype, rates in found["products"].items():
                for name in ("blas", "panels"):
                    rates[f"{name} {n}t"] = side.ask("products", name, dtype, n).get("rate", 0.0)  # or not installed
            memory = side.ask("bandwidth")
        finally:
            side.close()
    found["rates"] = {dtype: max(rates.values()) for dtype, rates in found["products"].items()}
    return found | {"bandwidth": memory["rate"], "last_cache": memory["last_cache"]}


def describe():
    """Return what the figures hang on."""
    info = pathlib.Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "cores": cores(),
        "features": features.current(),
        "load": load(),
        "python": platform.python_version(),
        "xprnn": xprnn.__version__,
        **{library: version(library) for library in LIBRARIES},
    } | measure()


def show(found):
    """Print the machine."""
    print(f"{found['cpu']}, {found['cores']} cores, load {found['load']} at the start")
    masked = found["features"] != "native"
    print(f"features: {found['features']}{f', but not of {features.UNMASKED}' if masked else ''}")
    print(", ".join(f"{name} {found[name]}" for name in ("python", "xprnn", *LIBRARIES)))
    for dtype, rates in found["products"].items():
        each = ", ".join(f"{how} {rate / 1e9:.0f}" for how, rate in rates.items())
        print(f"products in {dtype}, GFLOP/s: {each}; floors are by {found['rates'][dtype] / 1e9:.0f}")
    print(f"memory: {found['bandwidth'] / 1e9:.1f} GB/s, last cache {found['last_cache'] / 2**20:.0f} MiB")
    if not process.STOPS:
        print("!! this platform stops no process: threads of another side may spin while one is timed !!")
    if (found["load"] or 0.0) > LOADED:
        print("!! others work on this machine: sides with threads suffer most, and ratios mean little !!")
