"""The array libraries that the tests run on, and copies between them and NumPy."""

import importlib.util
import os

import numpy as np
import pytest

import xprnn
from xprnn import backends, kernels, tree
from xprnn.kernels.registry import is_standard

NAMES = ("numpy", "numpy:readonly", "array_api_strict", "torch", "jax", "cupy")
KERNELS = {
    "numpy": ("reference", "numpy", *(() if kernels.KERNELS["native"].lacks else ("native",))),
    "jax": ("jax",),
    "cupy": ("reference", "cupy_stepwise", "cupy_persistent"),
}
# On a CPU with AVX-512 XLA, of JAX 0.10.2, gives one row of a GRU's product (da_r, da_z, r da_n) @ W_hh wrong, with 5
# units, a batch of 4 and float64; in plain JAX, too. Tests judge our equations: here it compiles for AVX2.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip()
NAMED = tuple(name for name in os.environ.get("XPRNN_TEST_BACKENDS", "").split(",") if name)


class ReadOnly(np.ndarray):
    """A NumPy array that nothing can be written into, nor into what is computed from it."""

    def __array_finalize__(self, obj):
        if self.base is not None or obj is None:
            self.flags.writeable = False

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if out is not None or method == "at":
            raise ValueError("an in-place operation on a read-only array")
        return _seal(getattr(ufunc, method)(*map(_bare, inputs), **{k: _bare(v) for k, v in kwargs.items()}))

    def __array_function__(self, function, types, args, kwargs):
        bare = tree_bare(args), {key: tree_bare(value) for key, value in kwargs.items()}
        return _seal(function(*bare[0], **bare[1]))


def _bare(a):
    return a.view(np.ndarray) if isinstance(a, ReadOnly) else a


def tree_bare(a):
    return type(a)(map(tree_bare, a)) if isinstance(a, list | tuple) else _bare(a)


def _seal(result):
    if isinstance(result, list | tuple):
        return type(result)(map(_seal, result))
    if type(result) is np.ndarray:
        result = result.view(ReadOnly)
        result.flags.writeable = False
    return result


class Backend:
    """One array library: its namespace, and arrays made on a device of our choice."""

    def __init__(self, name):
        self.name = name
        self.package = name.partition(":")[0]
        self.xp = backends.load(self.package)
        if self.package == "jax":
            import jax

            jax.config.update("jax_enable_x64", True)
        # in-place twins cannot run on arrays that forbid it; everywhere else, every kernel that can run does
        self.kernels = KERNELS.get(name, ("reference",))
        self.kernel = "reference" if name == "numpy:readonly" else "auto"

    def kernels_for(self, layer):
        """Return the kernels to run a layer with: those of CuPy compile every cell anew, so they get the plain ones."""
        any_cell = ("reference", "jax", "numpy", "native")
        return [kernel for kernel in self.kernels if kernel in any_cell or is_standard(layer.cell)]

    def asarray(self, a, dtype=None):
        """Copy a host array to this library: to `device1` of array-api-strict, where implicit conversion fails."""
        a = np.asarray(a) if dtype is None else np.asarray(a).astype(dtype)
        if self.name == "numpy:readonly":
            return _seal(a.copy())
        if self.package == "numpy":
            return a.copy()
        options = {"device": self.xp.Device("device1")} if self.package == "array_api_strict" else {}
        return self.xp.asarray(a.copy(), **options)

    def asarrays(self, arrays, dtype=None):
        """Copy a nested dict or tuple of host arrays."""
        return tree.map(lambda a: self.asarray(a, dtype), arrays)

    def to_numpy(self, arrays):
        """Copy a nested dict or tuple of arrays to the host; each must be this library's and live where x does."""
        return tree.map(self._check_and_copy, arrays)

    def _check_and_copy(self, a):
        like = self.asarray(np.zeros(1))
        assert xprnn._array.namespace.namespace(a) is xprnn._array.namespace.namespace(like)
        assert xprnn._array.namespace.device(a) == xprnn._array.namespace.device(like)
        return backends.to_numpy(a)

    def __repr__(self):
        return self.name


def why_not(name):
    """Return why a backend cannot be tested, or None."""
    library = name.partition(":")[0]
    if NAMED and library not in NAMED:
        return f"{library} is not named in XPRNN_TEST_BACKENDS"
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    if library == "cupy" and library not in backends.available():
        return "cupy has no device"
    return None


def running():
    """Return the names of the backends that really run; a backend that is named and cannot run ends the session."""
    missing = [name for name in NAMED if name not in NAMES or why_not(name)]
    if missing:
        reasons = {name: why_not(name) if name in NAMES else "no such backend" for name in missing}
        raise pytest.UsageError(f"XPRNN_TEST_BACKENDS names backends that cannot run: {reasons}")
    return [name for name in NAMES if why_not(name) is None]


def line():
    """Return what a session says of backends: those that run, and why the others do not."""
    others = {}
    for name in NAMES:
        if reason := why_not(name):
            others.setdefault(reason.removeprefix(f"{name} is "), []).append(name)
    told = [f"not on {', '.join(names)}: {reason}" for reason, names in others.items()]
    return "; ".join([f"xprnn on {', '.join(running())}", *told])
