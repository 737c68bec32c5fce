"""Machine code on disk: never needed, so whatever is wrong with it, code is compiled and stays in memory.

A file is the sum of the key and the code, then the code. It is written beside its name and moved there, so processes
may write at once, and none reads half a file.
"""

import contextlib
import hashlib
import logging
import os
import sys
import uuid
from pathlib import Path

LOG = logging.getLogger("xprnn")

FOLDER = "XPRNN_CACHE_DIR"
"""The variable of the environment that names the folder."""

MOST = 256 * 2**20
"""Bytes of all files, beyond which the oldest go."""

SUM = 32
"""Bytes of a sum, SHA-256."""

OFTEN = 16
"""Files that a process writes before it looks again how many bytes there are in all."""

_said: set[str] = set()
_writes = [0]


def folder() -> Path | None:
    """Return the folder of the cache, None where the user has none."""
    if text := os.environ.get(FOLDER):
        return Path(text)
    try:
        user = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "xprnn" / "cache"
    if sys.platform == "darwin":
        return user / "Library" / "Caches" / "xprnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or user / ".cache") / "xprnn"


def read(key: bytes) -> bytes | None:
    """Return the code of a key, None where there is none."""
    path = _path(key)
    if path is None:
        return None
    try:
        found = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _say_once("read", "machine code is compiled anew, as it cannot be read from %s: %s", path, error)
        return None
    if found[:SUM] != _sum(key, found[SUM:]):
        _say_once("damaged", "machine code is compiled anew, as %s is damaged", path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what is used is not old
    return found[SUM:]


def write(key: bytes, code: bytes) -> None:
    """Write the code of a key, if it can be written."""
    path = _path(key)
    if path is None:
        _say_once("write", "machine code stays in memory alone, as there is no folder of a user")
        return
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.write_bytes(_sum(key, code) + code)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        _say_once("write", "machine code stays in memory alone, as %s cannot be written: %s", path, error)
        return
    if _writes[0] % OFTEN == 0:
        _bound(path.parent)
    _writes[0] += 1


def _path(key: bytes) -> Path | None:
    """Return the file of a key."""
    below = folder()
    return None if below is None else below / f"{key.hex()[:32]}.code"


def _sum(key: bytes, code: bytes) -> bytes:
    return hashlib.sha256(key + code).digest()


def _bound(below: Path) -> None:
    """Delete the oldest files of the cache, beyond what it may hold, and no other files."""
    try:
        with os.scandir(below) as entries:
            files = [(entry.stat(), entry.path) for entry in entries if ".code" in entry.name and entry.is_file()]
    except OSError:
        return
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
        if total <= MOST:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= status.st_size


def _say_once(what: str, message: str, *rest: object) -> None:
    """Say once in a process what is wrong with the cache."""
    if what not in _said:
        _said.add(what)
        LOG.warning(message, *rest)
