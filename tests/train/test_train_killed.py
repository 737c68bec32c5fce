"""Training that is killed at any time, with no warning, ends in the same bytes as training that is left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import xprnn

ROOT = Path(__file__).parents[2]

TRAINING = """
import sys
import numpy as np, xprnn
from xprnn import losses, optim
rng = np.random.default_rng(0)
x, y = rng.standard_normal((40, 12, 3)), rng.standard_normal((40, 12, 2))
model = xprnn.Sequential(xprnn.GRU(3, 8, hidden_dropout=0.2), xprnn.Linear(8, 2))
print("begins", flush=True)
xprnn.fit(
    model, model.init(0), (x, y), loss=losses.mse, optimizer=optim.Adam(lr=0.01), epochs=40, batch_size=8,
    validation=(x[:8], y[:8]), update=xprnn.train.UpdateRule(average=optim.EMA(0.9), kernel="numpy"),
    checkpoints=xprnn.train.Checkpoints(sys.argv[1], every=3, resume=True),
)
print("ends", flush=True)
"""


def start(folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "begins\n"
    return process


def last_bytes(folder):
    return xprnn.checkpoint.Folder(folder).latest().read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_run_killed_at_random_instants_ends_in_the_same_bytes(tmp_path, request):
    left = request.config.getoption("--kills")
    alone = start(tmp_path / "alone")
    began = time.monotonic()
    assert alone.communicate(timeout=120)[0] == "ends\n"
    seconds, expected, rng, killed, runs = (
        time.monotonic() - began,
        last_bytes(tmp_path / "alone"),
        np.random.default_rng(),
        0,
        0,
    )
    while killed < left:  # a run that gets to its end gives way to another
        folder, runs, ended = tmp_path / str(runs), runs + 1, False
        while not ended:
            process = start(folder)
            if killed < left:
                time.sleep(rng.uniform(0.0, 0.4 * seconds))
                process.send_signal(signal.SIGKILL)
            told, _ = process.communicate(timeout=120)
            ended = told == "ends\n"
            killed += process.returncode == -signal.SIGKILL
        assert last_bytes(folder) == expected
        assert {path.suffix for path in folder.iterdir()} == {".safetensors"}  # what a kill left is deleted
