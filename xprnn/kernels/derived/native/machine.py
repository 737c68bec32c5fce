"""The machine that code is emitted for: its vectors, registers and features.

A `Machine` is handed to all that emits or compiles, so that one process can make code for every width.
"""

import os
from functools import lru_cache
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir

VECTOR_BYTES = "XPRNN_VECTOR_BYTES"
"""The variable of the environment that narrows the vectors."""

WIDTHS = (16, 32, 64)
"""Bytes of the vectors there are: SSE and NEON, AVX and AVX2, AVX-512."""

BEYOND = {
    16: ("avx", "fma", "f16c", "xop", "vaes", "vpclmulqdq", "sha512", "sm3", "sm4", "amx", "evex", "egpr"),
    32: ("avx512", "avx10", "amx", "evex", "egpr"),
    64: (),
}
"""How the names of the features of x86 begin that vectors of this width do not have."""


class Machine(NamedTuple):
    """A processor as code is compiled for it.

    Attributes
    ----------
    vector_bytes : int
        Bytes of a vector register, 16, 32 or 64.
    registers : int
        How many of them there are.
    triple, cpu, features : str
        As LLVM names them.
    """

    vector_bytes: int
    registers: int
    triple: str
    cpu: str
    features: str

    def has(self, feature: str) -> bool:
        """Return whether the machine has a feature of LLVM's list."""
        return f"+{feature}" in self.features.split(",")

    def lanes(self, number_type: ir.Type) -> int:
        """Return how many floats of a type fill a vector."""
        return self.vector_bytes // (8 if number_type == ir.DoubleType() else 4)

    def target(self) -> llvm.TargetMachine:
        """Make LLVM's target machine, which belongs to whoever is handed it."""
        target = llvm.Target.from_triple(self.triple)
        return target.create_target_machine(cpu=self.cpu, features=self.features, opt=3, jit=True)


@lru_cache
def host(vector_bytes: int | None = None) -> Machine:
    """Describe the machine at hand, with its widest vectors or with narrower ones.

    Parameters
    ----------
    vector_bytes : int, optional
        Bytes of a vector; None is what the variable `XPRNN_VECTOR_BYTES` says when it is first asked for, else the
        most that there is. The features of wider vectors are off then, in what is compiled, too.

    Raises
    ------
    ValueError
        If the machine has no vectors of this width.
    """
    _initialize()
    features = _features()
    most = next((width for width in reversed(WIDTHS) if _runs(width, features)), WIDTHS[0])
    width = vector_bytes or _wanted() or most
    if width not in WIDTHS or width > most:
        widths = [each for each in WIDTHS if each <= most]
        raise ValueError(f"vectors of {width} bytes do not run on this machine, whose vectors are of {widths} bytes")
    features = {name: has and not name.startswith(BEYOND[width]) for name, has in features.items()}
    flags = ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(features.items()))
    registers = 32 if width == 64 or not _is_x86() else 16
    return Machine(width, registers, llvm.get_process_triple(), llvm.get_host_cpu_name(), flags)


def widths() -> tuple[int, ...]:
    """Return the widths of vectors that run here, in bytes."""
    _initialize()
    return tuple(width for width in WIDTHS if _runs(width, _features()))


def _initialize() -> None:
    """Make LLVM ready for the machine at hand; again is no error."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _features() -> dict[str, bool]:
    """Return the features that LLVM finds; of some processors it knows the name alone."""
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:
        return {}


def _is_x86() -> bool:
    return str(llvm.get_process_triple()).startswith(("x86_64", "i386", "i686", "amd64"))


def _runs(width: int, features: dict[str, bool]) -> bool:
    """Return whether vectors of a width run on a machine with these features."""
    needed = {16: (), 32: ("avx",), 64: ("avx512f", "avx512dq", "avx512bw", "avx512vl")}[width]
    return all(features.get(name, False) for name in needed)


def _wanted() -> int | None:
    """Read the width that the environment asks for."""
    text = os.environ.get(VECTOR_BYTES, "")
    if text and text not in map(str, WIDTHS):
        raise ValueError(f"the variable {VECTOR_BYTES} must be 16, 32 or 64, got {text!r}")
    return int(text) if text else None
