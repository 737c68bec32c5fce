"""The machine at hand: its vectors, and narrower ones."""

import re

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import HOSTS, every_machine, module_of
from xprnn.kernels.derived.native import machine
from xprnn.kernels.derived.native.compile import assembly
from xprnn.kernels.derived.native.sums import Sums
from xprnn.kernels.derived.native.vectors import FLOAT32


@pytest.fixture
def unread(monkeypatch):
    machine.host.cache_clear()
    yield monkeypatch
    machine.host.cache_clear()


def test_the_most_that_there_is_is_the_default(unread):
    unread.delenv("XPRNN_VECTOR_BYTES", raising=False)
    assert machine.host().vector_bytes == max(machine.widths())


@pytest.mark.parametrize("width", machine.widths())
def test_the_environment_narrows_vectors(width, unread):
    unread.setenv("XPRNN_VECTOR_BYTES", str(width))
    assert machine.host() == machine.host(width)


@pytest.mark.parametrize("text", ["24", "wide", "-16"])
def test_a_width_that_is_none_is_one_sentence(text, unread):
    unread.setenv("XPRNN_VECTOR_BYTES", text)
    with pytest.raises(ValueError, match=f"the variable XPRNN_VECTOR_BYTES must be 16, 32 or 64, got '{text}'"):
        machine.host()


def test_a_width_that_the_machine_lacks_is_refused(unread):
    unread.setattr(machine, "_runs", lambda width, features: width == 16)
    with pytest.raises(ValueError, match=r"vectors of 32 bytes do not run on this machine, .* are of \[16\] bytes"):
        machine.host(32)


REGISTER = {16: "xmm", 32: "ymm", 64: "zmm"}


@every_machine
def test_code_is_in_vectors_of_the_width_and_no_wider(host):
    if not host.triple.startswith("x86_64"):
        pytest.skip("the registers' names are those of x86")
    module = module_of(host)
    assert Sums(module, FLOAT32, host).outer.linkage == "internal"
    text = str(module).replace("define internal", "define")  # else nothing is emitted, as nothing calls it
    lines = assembly(text, host)
    assert re.search(REGISTER[host.vector_bytes], lines)
    for wider in (width for width in REGISTER if width > host.vector_bytes):
        assert REGISTER[wider] not in lines
    assert ("vfmadd" in lines) == (host.vector_bytes > 16 and host.has("fma"))
    assert ("vmovups" in lines) == (host.vector_bytes > 16)  # SSE's instructions, too, and not AVX's on short vectors


def test_all_widths_live_in_one_process():
    assert [host.vector_bytes for host in HOSTS] == list(machine.widths())
