"""A run of bench.py as on a machine with fewer features: `--features avx2` hides AVX-512 from all that look there.

The masks are variables of the environment. Libraries read them when they are imported, so the command begins again
under them. Measured on a machine with AVX-512, on one core: products of NumPy fall from 99 to 57 GFLOP/s by OpenBLAS's
mask, those of PyTorch from 160 to 83 by MKL's alone, its LSTM for inference takes two to three times as long by
oneDNN's alone, and ATen and NumPy report AVX2. Our machine code loses AVX-512, and so does what XLA generates.

Not masked are **ONNX Runtime**, whose MLAS asks the machine alone, and **the products of JAX**, which XLA calls from a
library that does the same: 145 GFLOP/s with and without. Their figures are those of the whole machine.
"""

import os
import platform
import sys

UNMASKED = "ONNX Runtime, products of JAX"
"""What no variable masks."""

FEATURES = ("native", "avx2")

MARK = "XPRNN_BENCH_FEATURES"
"""The variable that says under which features this process runs."""

WIDE = ("avx512", "avx10", "amx")
"""What the names of LLVM's features that are masked begin with."""

AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # of PyTorch's products
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",  # its older name
    "XPRNN_VECTOR_BYTES": "32",
}


def current():
    """Return the features under which this process runs."""
    return os.environ.get(MARK, "native")


def of_numpy():
    """Return the features that NumPy decides about as it runs, and that are wider than AVX2: it refuses other names."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    return [name for name in __cpu_dispatch__ if name.startswith("AVX512") or name == "X86_V4"]


def masks():
    """Return the variables that mask what is wider than AVX2."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise SystemExit(f"`--features avx2` masks AVX-512 of x86-64; this machine is {platform.machine()}")
    xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip()
    found = AVX2 | {"NPY_DISABLE_CPU_FEATURES": ",".join(of_numpy()), "XLA_FLAGS": xla}
    return found | {"XPRNN_VECTOR_BYTES": "32"}


def begin(features):
    """Start this command anew under the masks of some features, unless it runs under them."""
    if features == current():
        return
    if features == "native":
        raise SystemExit(f"`--features native` cannot take back the masks of {MARK}={current()}; start without it")
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, os.environ | masks() | {MARK: features})
