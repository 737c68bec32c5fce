"""Machine code in memory and on disk: whatever is wrong with the disk, code is compiled and runs."""

import ctypes
import errno
import gc
import itertools
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import HOSTS
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native import disk_cache

HOST = HOSTS[-1]
_numbers = itertools.count(1)


def text(number, lines=0):
    """Return a module whose function writes a number, by so many instructions."""
    more = "\n".join(f"  %y{k + 1} = fadd double %y{k}, {k + number}.0" for k in range(lines))
    return f"""define void @f(ptr %table) {{
  %y0 = load double, ptr %table
{more}
  %end = getelementptr double, ptr %table, i64 1
  store double %y{lines}, ptr %end
  store i64 {number}, ptr %table
  ret void
}}"""


def written(code):
    """Return what the function writes."""
    table = (ctypes.c_int64 * 2)()
    code.function("f")(ctypes.addressof(table))
    return table[0]


@pytest.fixture
def cache(tmp_path, monkeypatch, caplog):
    """A folder of this test, and a process that has compiled and said nothing yet; returns what compiles anew."""
    monkeypatch.setenv("XPRNN_CACHE_DIR", str(tmp_path / "code"))
    for module, name, value in (
        (disk_cache, "_said", set()),
        (disk_cache, "_writes", [0]),
        (native_compile, "_announced", []),
        (native_compile, "_codes", type(native_compile._codes)()),
    ):
        monkeypatch.setattr(module, name, value)
    caplog.set_level(logging.WARNING, "xprnn")
    compiled = []
    real = native_compile.object_code

    def object_code(*arguments):
        compiled.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(native_compile, "object_code", object_code)
    return compiled


def in_a_new_process(number):
    """Return what the function writes, as if memory held nothing."""
    native_compile._codes.clear()
    return written(native_compile.compiled(text(number), HOST))


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_module_is_compiled_once_and_then_found_in_memory_and_on_disk(cache, caplog):
    first = native_compile.compiled(text(3), HOST)
    assert native_compile.compiled(text(3), HOST) is first
    assert written(first) == 3
    assert in_a_new_process(3) == 3
    assert len(cache) == 1
    assert caplog.messages == []


def test_a_function_that_is_not_there_is_named(cache):
    with pytest.raises(KeyError, match="the module has no function 'g'"):
        native_compile.compiled(text(1), HOST).function("g")


def test_a_module_with_a_key_is_emitted_only_where_it_is_not_on_disk(cache, monkeypatch):
    emitted = []

    def emit():
        emitted.append(None)
        return text(40)

    for count in (1, 1):
        native_compile._codes.clear()
        assert written(native_compile.compiled(emit, HOST, "forty")) == 40
        assert len(emitted) == count
    native_compile._codes.clear()
    monkeypatch.setattr(native_compile, "sources", lambda: "changed")
    assert written(native_compile.compiled(emit, HOST, "forty")) == 40
    assert len(emitted) == 2
    assert written(native_compile.compiled(lambda: text(41), HOST, "forty-one")) == 41
    with pytest.raises(TypeError, match="`key` must tell modules apart whose text is a function"):
        native_compile.compiled(emit, HOST)


def test_another_width_is_another_module(cache):
    assert [written(native_compile.compiled(text(4), host)) for host in HOSTS] == [4] * len(HOSTS)
    assert len(cache) == len(HOSTS)
    native_compile._codes.clear()
    assert [written(native_compile.compiled(text(4), host)) for host in HOSTS] == [4] * len(HOSTS)
    assert len(cache) == len(HOSTS)


def flipped(at):
    def flip(content):
        changed = bytearray(content)
        changed[at] ^= 1
        return bytes(changed)

    return flip


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit of the machine code": flipped(-100),
    "a bit of the sum": flipped(7),
    "another file": lambda content: b"not machine code at all" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_compiled_and_written_anew(damage, cache, tmp_path, caplog):
    assert in_a_new_process(5) == 5
    (path,) = files(tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert in_a_new_process(5) == 5
    assert in_a_new_process(5) == 5
    assert len(cache) == 2
    assert caplog.messages == [f"machine code is compiled anew, as {path} is damaged"]
    assert files(tmp_path) == [path]


def test_the_file_of_another_module_is_not_run(cache, tmp_path):
    assert in_a_new_process(6) == 6
    (first,) = files(tmp_path)
    assert in_a_new_process(7) == 7
    (second,) = set(files(tmp_path)) - {first}
    second.write_bytes(first.read_bytes())
    assert in_a_new_process(7) == 7


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
def test_a_disk_that_is_full_or_read_only_is_said_once_and_is_no_error(
    number, words, cache, tmp_path, monkeypatch, caplog
):
    def fail(path, content):
        path.touch()
        raise OSError(number, words)

    monkeypatch.setattr(Path, "write_bytes", fail)
    assert [in_a_new_process(8), in_a_new_process(9)] == [8, 9]
    (message,) = caplog.messages
    assert re.fullmatch(rf"machine code stays in memory alone, as .* cannot be written: .*{words}", message)
    assert files(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_no_error(cache, tmp_path, caplog):
    (tmp_path / "code").write_text("a file")
    assert [in_a_new_process(10), in_a_new_process(10)] == [10, 10]
    assert [message.partition(", as")[0] for message in caplog.messages] == ["machine code stays in memory alone"]


def test_a_folder_in_the_place_of_a_file_is_no_error(cache, tmp_path, caplog):
    assert in_a_new_process(11) == 11
    (path,) = files(tmp_path)
    path.unlink()
    path.mkdir()
    assert in_a_new_process(11) == 11
    assert [message.partition(", as")[0] for message in caplog.messages] == [
        "machine code is compiled anew",
        "machine code stays in memory alone",
    ]


def test_a_user_without_a_folder_is_no_error(cache, monkeypatch, caplog):
    monkeypatch.delenv("XPRNN_CACHE_DIR")

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert in_a_new_process(12) == 12
    assert caplog.messages == ["machine code stays in memory alone, as there is no folder of a user"]


def test_the_oldest_files_go_beyond_so_many_bytes(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "OFTEN", 1)
    other = tmp_path / "code" / "a file of somebody else"
    other.parent.mkdir()
    other.write_bytes(bytes(10_000))
    for number in range(20, 24):
        in_a_new_process(number)
    sizes = [path.stat().st_size for path in files(tmp_path) if path != other]
    assert len(sizes) == 4
    for age, path in enumerate(sorted(set(files(tmp_path)) - {other}, key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (1000 + age, 1000 + age))
    assert in_a_new_process(20) == 20  # is young again
    monkeypatch.setattr(disk_cache, "MOST", 3 * max(sizes))
    in_a_new_process(24)
    assert len(files(tmp_path)) == 4
    before = len(cache)
    assert [in_a_new_process(number) for number in (20, 23, 24)] == [20, 23, 24]
    assert len(cache) == before
    assert other.exists()


def test_what_takes_long_is_said_once(cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(native_compile, "SLOW", -1.0)
    assert [in_a_new_process(13), in_a_new_process(14)] == [13, 14]
    (message,) = caplog.messages
    assert re.fullmatch(rf"compiled for this machine in .* s; machine code is left in {tmp_path / 'code'}", message)


def test_two_threads_that_ask_at_once_get_one_module(cache):
    barrier, found = threading.Barrier(4), []

    def ask():
        barrier.wait()
        found.append(native_compile.compiled(text(15, 200), HOST))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(cache) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a platform without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_compiles_can_compile(cache):
    ready, stop = threading.Event(), threading.Event()

    def compile_on():
        while not stop.is_set():
            native_compile.object_code(text(next(_numbers), 500), HOST)
            ready.set()

    thread = threading.Thread(target=compile_on)
    thread.start()
    ready.wait()
    parent = native_compile.compiled(text(16), HOST)
    try:
        for number in (16, 17, 18):
            process = multiprocessing.get_context("fork").Process(target=_exit_with, args=(parent, number))
            process.start()
            process.join(60)
            process.kill()  # one that waits for a lock for ever
            process.join()
            assert process.exitcode == 0
    finally:
        stop.set()
        thread.join()


def _exit_with(parent, number):
    assert written(parent) == 16
    assert in_a_new_process(number) == number


def test_a_function_outlives_its_module_in_the_cache(cache, monkeypatch):
    monkeypatch.setattr(native_compile, "MOST", 2)
    function = native_compile.compiled(text(30), HOST).function("f")
    for number in range(31, 36):
        native_compile.compiled(text(number), HOST)
    gc.collect()
    assert len(native_compile._codes) == 2
    table = (ctypes.c_int64 * 2)()
    function(ctypes.addressof(table))
    assert table[0] == 30


def test_at_the_end_of_the_process_no_module_is_freed(cache, monkeypatch):
    """Python has cleared the names of this module by then, and would print that they are None."""
    code = native_compile.compiled(text(40), HOST)
    monkeypatch.setattr(native_compile, "_lock", None)
    code.__del__(lambda: True)
    monkeypatch.undo()
    table = (ctypes.c_int64 * 2)()
    code.function("f")(ctypes.addressof(table))
    assert table[0] == 40


MEMORY = """
import resource
from tests.kernels.native.test_compile import HOST, text
from xprnn.kernels.derived.native import compile as native_compile
native_compile.MOST = 16
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
for number in range(400):
    native_compile.compiled(text(number, 300), HOST)
    if number == 99:
        before = resident()
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc to read the resident memory from")
def test_resident_memory_is_bounded_over_300_different_modules(tmp_path):
    """LLVM's pass managers, which llvmlite does not free, are some 10 KiB of each module: 3 MiB here.

    Modules that stayed would be another 30 MiB, as the planted fault of never closing an engine has shown.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XPRNN_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8.0
