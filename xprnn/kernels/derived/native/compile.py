"""From the text of LLVM instructions to functions that Python can call, in memory and on disk.

A function takes one argument, the address of a table of integers: sizes, strides, addresses of arrays. While it runs,
other threads of Python do.
"""

import ctypes
import hashlib
import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from xprnn.kernels.derived.native import disk_cache
from xprnn.kernels.derived.native.machine import Machine

LOG = logging.getLogger("xprnn")

MOST = 128
"""Modules that stay in memory though nobody holds them."""

SLOW = 1.0
"""Seconds of compiling from which on it is said."""

LEVEL = 2
"""LLVM's level of optimisation."""

PASSES = ("sroa", "instruction_combine", "new_gvn", "simplify_cfg", "instruction_combine")
"""What runs before instructions are chosen: LLVM's own list takes three times as long, and nothing runs faster."""

_call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_lock = threading.RLock()
_codes: OrderedDict[tuple[Machine, str], "Code"] = OrderedDict()
_announced: list[float] = []

if hasattr(os, "register_at_fork"):  # no other thread is within LLVM when a process forks
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Code:
    """A module in machine code, in memory for as long as it or one of its functions is held.

    Parameters
    ----------
    content : bytes
        An object file.
    machine : Machine
    """

    def __init__(self, content: bytes, machine: Machine) -> None:
        self._context = llvm.create_context()
        module = llvm.parse_assembly("", self._context)
        self._engine = llvm.create_mcjit_compiler(module, machine.target())  # which then belongs to the engine
        self._engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(content))
        self._engine.finalize_object()
        self._functions: dict[str, object] = {}

    def function(self, name: str) -> "ctypes._FuncPointer":
        """Return a function `f(table)`, which is called with an address, and returns nothing.

        Raises
        ------
        KeyError
            If the module has no such function.
        """
        with _lock:
            address = self._engine.get_function_address(name)
        if not address:
            raise KeyError(f"the module has no function {name!r}")
        function = _call(address)
        function.code = self  # type: ignore[attr-defined]  # whose memory it runs in
        return function

    def __del__(self, is_at_the_end: Callable[[], bool] = sys.is_finalizing) -> None:
        """Free the machine code, and then the context that it was made in; at the end of the process it goes anyway."""
        if is_at_the_end():  # where names of modules may be gone
            return
        with _lock:
            for each in ("_engine", "_context"):
                if hasattr(self, each):
                    getattr(self, each).close()


def compiled(text: str | Callable[[], str], machine: Machine, key: str = "") -> Code:
    """Compile the text of a module, or find it compiled, in memory or on disk.

    Parameters
    ----------
    text : str or callable
        LLVM's language; the functions to be called are `void f(ptr)`. To emit it takes ten times as long as to load a
        module from disk, so where there is a `key` it may be a function that emits it if it is needed.
    machine : Machine
    key : str, optional
        What decides about the text, beside the machine and the sources of this package.

    Returns
    -------
    Code

    Notes
    -----
    A second thread that asks meanwhile waits. The 128 modules that were asked for last stay in memory.
    """
    if not key and callable(text):
        raise TypeError("`key` must tell modules apart whose text is a function")
    name = machine, key or str(text)
    with _lock:
        code = _codes.get(name)
        if code is None:
            code = _codes[name] = _loaded(text, machine, key and key + sources())
            if len(_codes) > MOST:
                _codes.popitem(last=False)
        _codes.move_to_end(name)
        return code


def _loaded(text: str | Callable[[], str], machine: Machine, key: str) -> Code:
    """Load a module from disk, or compile it and leave it there."""
    version = (llvmlite.__version__, llvm.llvm_version_info, LEVEL, PASSES)
    digest = hashlib.sha256(repr((key or text, machine, version)).encode()).digest()
    content = disk_cache.read(digest)
    if content is None:
        start = time.perf_counter()
        content = object_code(text() if callable(text) else text, machine)
        _announce(time.perf_counter() - start)
        disk_cache.write(digest, content)
    return Code(content, machine)


@lru_cache
def sources() -> str:
    """Return a digest of the sources that emit: what they emitted before they were changed is compiled anew."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def object_code(text: str, machine: Machine) -> bytes:
    """Compile the text of a module to an object file."""
    content = _emitted(text, machine, "emit_object")
    assert isinstance(content, bytes)
    return content


def assembly(text: str, machine: Machine) -> str:
    """Compile the text of a module to the machine's language, to be read."""
    return str(_emitted(text, machine, "emit_assembly"))


def _emitted(text: str, machine: Machine, emit: str) -> bytes | str:
    """Compile the text of a module to what a method of LLVM's target machine emits."""
    with _lock:
        target, context = machine.target(), llvm.create_context()
        module = _optimised(text, context, target)
        content: bytes | str = getattr(target, emit)(module)
        for each in (module, context, target):
            each.close()
        return content


def _optimised(text: str, context: llvm.ContextRef, target: llvm.TargetMachine) -> llvm.ModuleRef:
    """Read a module and optimise it: vectors and unrolled loops are in the text already."""
    module = llvm.parse_assembly(text, context)
    module.verify()
    passes = llvm.create_new_module_pass_manager()
    for name in PASSES:
        getattr(passes, f"add_{name}_pass")()
    options = llvm.create_pipeline_tuning_options(speed_level=LEVEL)
    builder = llvm.create_pass_builder(target, options)
    passes.run(module, builder)
    for each in (passes, builder, options):
        each.close()
    return module


def _announce(seconds: float) -> None:
    """Say once in a process that compiling has taken its time."""
    if seconds > SLOW and not _announced:
        _announced.append(seconds)
        LOG.warning("compiled for this machine in %.1f s; machine code is left in %s", seconds, disk_cache.folder())
