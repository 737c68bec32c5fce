"""The cache of machine code on disk: never needed, so whatever is wrong with it, code is compiled and stays in memory.

numba's own reads its files by trust: one that is damaged makes every call fail, or runs as machine code, and a disk
that is full ends a compilation of seconds with an error. Here each signature has one file, whose bytes are summed.
"""

import contextlib
import hashlib
import logging
import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

LOG = logging.getLogger("xprnn")

SUM = 32
"""Bytes of a sum, SHA-256."""


class CodeCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, in files of our own: the sum of what the code is of, that of the code, the code."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function for a signature, None where there is none."""
        target_context.refresh()
        path, source = self._place(sig, target_context.codegen())
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _say_once("read", "machine code is compiled anew, as it cannot be read from %s: %s", path, error)
            return None
        code = found[2 * SUM :]
        if found[:SUM] != source:  # of other sources, or of another numba: it will be overwritten
            return None
        if found[SUM : 2 * SUM] != _sum(code):
            _say_once("damaged", "machine code is compiled anew, as %s is damaged", path)
            return None
        return self._impl.rebuild(target_context, pickle.loads(code))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled function of a signature, if it can be written."""
        path, source = self._place(sig, data.codegen)
        code = dumps(self._impl.reduce(data))
        beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # processes may write at once, each a file to move
        try:
            self._impl.locator.ensure_cache_path()
            beside.write_bytes(source + _sum(code) + code)
            os.replace(beside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            _say_once("write", "machine code is not kept for other processes, as %s cannot be written: %s", path, error)

    def _place(self, sig: Any, codegen: Any) -> tuple[Path, bytes]:
        """Return the file of a signature on this machine, and the sum of what the code is compiled from."""
        signature, machine, of_function = self._index_key(sig, codegen)
        name = _sum(repr((signature, machine)).encode()).hex()[:16]
        stamp = self._impl.locator.get_source_stamp()
        source = repr((numba.__version__, stamp, of_function)).encode()
        return Path(self.cache_path) / f"{self._impl.filename_base}.{name}.code", _sum(source)


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


_said: set[str] = set()


def _say_once(what: str, message: str, *rest: Any) -> None:
    """Say once in a process what is wrong with the cache."""
    if what not in _said:
        _said.add(what)
        LOG.warning(message, *rest)
