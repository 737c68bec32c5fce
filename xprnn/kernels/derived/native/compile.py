"""From the text of LLVM instructions to functions that Python can call, in memory and on disk.

A function takes one argument, the address of a table of integers: sizes, strides, addresses of arrays. While it runs,
other threads of Python do.
"""

import ctypes
import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict

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
"""LLVM's level of optimisation: at 3 nothing runs faster."""

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

    def __del__(self) -> None:
        """Free the machine code, and then the context that it was made in."""
        with _lock:
            for each in ("_engine", "_context"):
                if hasattr(self, each):
                    getattr(self, each).close()


def compiled(text: str, machine: Machine) -> Code:
    """Compile the text of a module, or find it compiled, in memory or on disk.

    Parameters
    ----------
    text : str
        LLVM's language; the functions to be called are `void f(ptr)`.
    machine : Machine

    Returns
    -------
    Code

    Notes
    -----
    A second thread that asks meanwhile waits. The 128 modules that were asked for last stay in memory.
    """
    with _lock:
        code = _codes.get((machine, text))
        if code is None:
            code = _codes[machine, text] = _loaded(text, machine)
            if len(_codes) > MOST:
                _codes.popitem(last=False)
        _codes.move_to_end((machine, text))
        return code


def _loaded(text: str, machine: Machine) -> Code:
    """Load a module from disk, or compile it and leave it there."""
    version = (llvmlite.__version__, llvm.llvm_version_info, LEVEL)
    key = hashlib.sha256(repr((text, machine, version)).encode()).digest()
    content = disk_cache.read(key)
    if content is None:
        start = time.perf_counter()
        content = object_code(text, machine)
        _announce(time.perf_counter() - start)
        disk_cache.write(key, content)
    return Code(content, machine)


def object_code(text: str, machine: Machine) -> bytes:
    """Compile the text of a module to an object file."""
    with _lock:
        target, context = machine.target(), llvm.create_context()
        module = _optimised(text, context, target)
        content = bytes(target.emit_object(module))
        for each in (module, context, target):
            each.close()
        return content


def assembly(text: str, machine: Machine) -> str:
    """Compile the text of a module to the machine's language, to be read."""
    with _lock:
        target, context = machine.target(), llvm.create_context()
        module = _optimised(text, context, target)
        lines = str(target.emit_assembly(module))
        for each in (module, context, target):
            each.close()
        return lines


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


PASSES = ("sroa", "instruction_combine", "new_gvn", "simplify_cfg", "instruction_combine")


def _announce(seconds: float) -> None:
    """Say once in a process that compiling has taken its time."""
    if seconds > SLOW and not _announced:
        _announced.append(seconds)
        LOG.warning("compiled for this machine in %.1f s; machine code is left in %s", seconds, disk_cache.folder())
