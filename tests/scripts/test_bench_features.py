"""The masks of machine features reach every library that has one, before it is imported."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
CPU = pathlib.Path("/proc/cpuinfo")
WIDE = CPU.is_file() and "avx512f" in CPU.read_text()

REPORTS = {
    "numpy": """
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
        print(any(__cpu_features__[name] for name in __cpu_dispatch__ if "512" in name or name == "X86_V4"))""",
    "openblas": """
        import ctypes, numpy, pathlib
        folder = pathlib.Path(numpy.__file__).parents[1] / "numpy.libs"
        config = ctypes.CDLL(str(next(folder.glob("*openblas*")))).scipy_openblas_get_config64_
        config.restype = ctypes.c_char_p
        print("Haswell" not in config().decode())""",
    "torch": """
        import torch
        print("AVX512" in torch.backends.cpu.get_cpu_capability())""",
    "mkl": """
        import os
        os.environ["MKL_VERBOSE"] = "1"
        import torch
        torch.ones(64, 64) @ torch.ones(64, 64)""",
    "onednn": """
        import os
        os.environ["ONEDNN_VERBOSE"] = "1"
        import torch
        with torch.inference_mode():
            torch.nn.LSTM(8, 16)(torch.ones(3, 4, 8))""",
    "native": """
        from xprnn.kernels.derived.native.machine import host
        print(host().has("avx512f"))""",
    "jax": """
        import jax
        from jax.experimental.serialize_executable import serialize
        print(b"+avx512f" in serialize(jax.jit(jax.numpy.tanh).lower(jax.numpy.ones(1000)).compile())[0])""",
}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def report(code, variables):
    """Return what a new process prints of its machine."""
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not WIDE, reason="this machine has no AVX-512 to mask")
@pytest.mark.parametrize("name", REPORTS)
def test_a_library_reports_no_avx512_under_the_masks_and_does_without(name, monkeypatch):
    library = {"openblas": "numpy", "mkl": "torch", "onednn": "torch"}.get(name, name)
    pytest.importorskip(library, reason=f"{library} is not installed")
    from benchmarks import features

    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the tests mask JAX for another reason
    native, masked = (report(REPORTS[name], variables) for variables in ({}, features.masks()))
    words = {"mkl": "AVX-512", "onednn": "avx512_core"}.get(name, "True")
    assert words in native
    assert words not in masked


def test_a_command_begins_again_under_the_masks_and_only_once(monkeypatch):
    from benchmarks import features

    def execve(path, arguments, environment):
        started.append((path, arguments))
        monkeypatch.setattr(os, "environ", environment)

    started = []
    monkeypatch.setattr(features.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_ftz=true")
    features.begin("native")
    assert started == []
    for _ in range(2):
        features.begin("avx2")
    assert started == [(sys.executable, sys.orig_argv)]
    assert features.current() == "avx2"
    with pytest.raises(SystemExit, match="`--features native` cannot take back the masks"):
        features.begin("native")
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_ftz=true --xla_cpu_max_isa=AVX2"
    assert os.environ["XPRNN_VECTOR_BYTES"] == "32"


def test_a_machine_that_is_no_x86_is_named(monkeypatch):
    from benchmarks import features

    monkeypatch.setattr(features.platform, "machine", lambda: "arm64")
    with pytest.raises(SystemExit, match="`--features avx2` masks AVX-512 of x86-64; this machine is arm64"):
        features.begin("avx2")


@pytest.mark.parametrize(("name", "printed"), [("native", "features: native\n"), ("avx2", "but not of ONNX Runtime")])
def test_the_results_name_the_features(name, printed, monkeypatch, capsys):
    from benchmarks import features, machine

    rates = {"products": {}, "rates": {}, "bandwidth": 1.0, "last_cache": 1}
    monkeypatch.setattr(machine, "measure", lambda: rates)
    monkeypatch.setenv(features.MARK, name)
    found = machine.describe()
    machine.show(found)
    assert found["features"] == name
    assert printed in capsys.readouterr().out
