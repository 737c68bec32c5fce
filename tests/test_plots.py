"""Pictures, by the numbers in their lines and images: beside NumPy, a known covariance, and differences of the loss."""

import re
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import losses, plots

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib draws the pictures; not installed")
from matplotlib.figure import Figure  # noqa: E402


def line(axes, k=0):
    return axes.lines[k].get_ydata()


def draw(axes):
    """Render, which is when matplotlib finds out what it cannot draw."""
    axes.figure.canvas.draw()
    return axes


# -- history ------------------------------------------------------------------------------------------------------


def test_history_has_the_losses_of_fit_over_its_epochs(rng):
    model = xprnn.Sequential(xprnn.GRU(3, 4), xprnn.Linear(4, 1))
    x, y = rng.standard_normal((8, 5, 3)), rng.standard_normal((8, 5, 1))
    validation = xprnn.train.Validation((x, y), metrics={"size": lambda y, t: abs(y).mean()})
    options = {"loss": losses.mse, "optimizer": xprnn.optim.Adam(), "validation": validation}
    *_, found = xprnn.fit(model, model.init(0), (x, y), epochs=4, **options)
    axes = draw(plots.history(found))
    assert [one.get_label() for one in axes.lines] == ["loss", "val_loss"]
    for k, name in enumerate(("loss", "val_loss")):
        np.testing.assert_array_equal(line(axes, k), found[name])
        np.testing.assert_array_equal(axes.lines[k].get_xdata(), [0, 1, 2, 3])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "val_loss"]
    assert axes.get_yscale() == "log"


def test_history_goes_on_from_another_epoch_and_takes_a_plain_list():
    np.testing.assert_array_equal(plots.history({"epoch": [5, 6], "loss": [2.0, 1.0]}).lines[0].get_xdata(), [5, 6])
    np.testing.assert_array_equal(line(plots.history([2.0, 1.0, 3.0])), [2.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("found", "scale"),
    [
        ([1.0, 0.5], "log"),
        ([1.0, 0.0], "linear"),
        ([1.0, -2.0], "linear"),
        ([1.0, np.nan], "log"),
        ([np.nan], "linear"),
    ],
)
def test_the_scale_of_losses_is_logarithmic_where_all_are_positive(found, scale):
    assert draw(plots.history({"loss": found})).get_yscale() == scale
    assert draw(plots.history({"loss": [1.0] * len(found), "val_loss": found})).get_yscale() == (
        "log" if np.isnan(found).any() else scale
    )


# -- predictions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (7, 2), (7, 3, 2)])
def test_predictions_are_of_the_first_sample(shape, backend, rng):
    pred, target = rng.standard_normal(shape), rng.standard_normal(shape)
    axes = draw(plots.predictions(backend.asarray(pred), backend.asarray(target)))
    first = [a.reshape(7, -1, shape[-1] if a.ndim > 1 else 1)[:, 0] for a in (pred, target)]
    assert len(axes.lines) == 2 * first[0].shape[1]
    for k, one in enumerate(axes.lines):
        np.testing.assert_array_equal(one.get_ydata(), first[k % 2][:, k // 2])
        assert one.get_linestyle() == ("-", "--")[k % 2]
        assert one.get_color() == axes.lines[k - k % 2].get_color()


def test_classes_are_drawn_as_numbers():
    axes = plots.predictions(np.array([2, 0, 1]), np.array([2, 1, 1]))
    np.testing.assert_array_equal([line(axes, 0), line(axes, 1)], [[2, 0, 1], [2, 1, 1]])


# -- gradient_reach -----------------------------------------------------------------------------------------------


def differences(model, params, x, loss, h=1e-5):
    """Return dLoss/dx by central differences."""
    found = np.empty_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        up, down = (float(loss(model(params, x + sign * step)[0])[0]) for sign in (1, -1))
        found[index] = (up - down) / (2 * h)
    return found


@pytest.mark.parametrize(
    ("model", "shape", "time"),
    [
        (xprnn.Sequential(xprnn.LSTM(2, 4), xprnn.Linear(4, 1)), (6, 3, 2), 0),
        (xprnn.Sequential(xprnn.GRU(2, 4, batch_first=True), xprnn.Linear(4, 1, batch_first=True)), (3, 6, 2), 1),
        (xprnn.Sequential(xprnn.RNN(2, 4), xprnn.Last(), xprnn.Linear(4, 1)), (6, 3, 2), 0),
        (xprnn.Sequential(xprnn.RNN(2, 4, bidirectional=True), xprnn.Linear(8, 1)), (6, 2), 0),
        (xprnn.Sequential(xprnn.GRU(2, 4, batch_first=True), xprnn.Linear(4, 1, batch_first=True)), (6, 2), 0),
    ],
    ids=["time first", "batch first", "last", "one sample", "one sample, batch first"],
)
def test_gradient_reach_is_the_norm_of_finite_differences(model, shape, time, rng):
    params, x = model.init(1), rng.standard_normal(shape)
    target = rng.standard_normal(model(params, x)[0].shape)

    def loss(y):
        return losses.mse(y, target)

    expected = differences(model, params, x, loss)
    others = tuple(axis for axis in range(x.ndim) if axis != time)
    norms = np.sqrt(np.sum(expected**2, axis=others))[::-1]  # the last step has the lag 0
    axes = draw(plots.gradient_reach(model, params, x, loss))
    np.testing.assert_allclose(line(axes), norms, rtol=1e-6)
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), np.arange(6))
    assert axes.get_yscale() == "log"
    same = plots.gradient_reach(model, params, x, loss(model(params, x)[0])[1])
    np.testing.assert_array_equal(line(same), line(axes))


def test_gradient_reach_of_a_linear_net_falls_by_its_weight(backend):
    if backend.name == "numpy:readonly":
        pytest.skip("a picture runs by the kernel that `select` chooses, which writes in place")
    layer, w = xprnn.RNN(1, 1, bias=False, nonlinearity=xprnn.Activation("affine", 1.0, 0.0)), 0.5
    params = backend.asarrays({"l0": {"W_ih": np.ones((1, 1)), "W_hh": np.full((1, 1), w)}})
    dy = np.zeros((20, 1, 1))
    dy[-1] = 1.0
    axes = plots.gradient_reach(layer, params, backend.asarray(np.ones((20, 1, 1))), backend.asarray(dy))
    assert_close(line(axes), w ** np.arange(20.0))


def test_a_gradient_of_nothing_is_drawn_on_a_plain_scale():
    layer, x = xprnn.GRU(2, 3), np.ones((4, 1, 2))
    axes = draw(plots.gradient_reach(layer, layer.init(0), x, np.zeros((4, 1, 3))))
    np.testing.assert_array_equal(line(axes), np.zeros(4))
    assert axes.get_yscale() == "linear"


# -- states -------------------------------------------------------------------------------------------------------


def test_hidden_states_are_an_image_with_a_row_per_unit(backend, rng):
    h = rng.standard_normal((9, 2, 4))
    axes = draw(plots.hidden_states(backend.asarray(h)))
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array(), h[:, 0].T)
    assert image.get_clim() == (-np.abs(h[:, 0]).max(), np.abs(h[:, 0]).max())
    assert axes.images[0].get_extent() == [-0.5, 8.5, -0.5, 3.5]
    np.testing.assert_array_equal(plots.hidden_states(backend.asarray(h[:, 1])).images[0].get_array(), h[:, 1].T)


@pytest.mark.parametrize(("value", "most"), [(0.0, 1.0), (np.nan, 1.0), (-3.0, 3.0)])
def test_the_colours_of_states_that_do_not_differ(value, most):
    assert draw(plots.hidden_states(np.full((3, 2), value))).images[0].get_clim() == (-most, most)


def shares(axes):
    return [float(re.search(r"([0-9.]+)%", text)[1]) for text in (axes.get_xlabel(), axes.get_ylabel())]


def test_pca_finds_an_ellipse_in_a_plane_that_was_turned(backend, rng):
    turn, t = np.linalg.qr(rng.standard_normal((5, 5)))[0], 2 * np.pi * np.arange(40) / 40
    flat = np.stack([3.0 * np.cos(t), np.sin(t)], axis=1)  # its variances are 9/2 and 1/2
    axes = draw(plots.hidden_pca(backend.asarray(7.0 + flat @ turn[:2])))
    found = np.asarray(axes.collections[0].get_offsets())
    signs = np.sign(turn[[0, 1], np.abs(turn[:2]).argmax(axis=1)])
    np.testing.assert_allclose(found, flat * signs, atol=1e-12)
    np.testing.assert_array_equal(axes.collections[0].get_array(), np.arange(40))
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_data()).T, found)
    assert shares(axes) == [90.0, 10.0]


def test_pca_of_a_layer_is_that_of_the_covariance(rng):
    layer = xprnn.LSTM(3, 6)
    h = layer(layer.init(0), rng.standard_normal((30, 2, 3)))[0]
    axes = plots.hidden_pca(h)
    found = np.asarray(axes.collections[0].get_offsets())
    variances, vectors = np.linalg.eigh(np.cov(h[:, 0].T))
    expected = (h[:, 0] - h[:, 0].mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-12)
    np.testing.assert_allclose(np.cov(found.T), np.diag(variances[[-1, -2]]), atol=1e-12)
    np.testing.assert_allclose(shares(axes), 100 * variances[[-1, -2]] / variances.sum(), atol=0.051)


# -- axes, and what is refused ------------------------------------------------------------------------------------

LAYER = xprnn.RNN(2, 3)
DRAWN = {
    "history": (plots.history, ([2.0, 1.0],)),
    "predictions": (plots.predictions, (np.ones(3), np.ones(3))),
    "gradient_reach": (plots.gradient_reach, (LAYER, LAYER.init(0), np.ones((4, 1, 2)), np.ones((4, 1, 3)))),
    "hidden_states": (plots.hidden_states, (np.eye(3),)),
    "hidden_pca": (plots.hidden_pca, (np.eye(3),)),
}


@pytest.mark.parametrize("name", plots.__all__)
def test_it_draws_into_the_axes_that_it_is_given_or_into_a_new_figure(name, tmp_path):
    function, given = DRAWN[name]
    left, right = Figure().subplots(1, 2)
    assert function(*given, ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    one, other = function(*given), function(*given)
    assert one.figure is not other.figure
    one.figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(TypeError, match="`ax` must be a matplotlib Axes, got Figure"):
        function(*given, ax=Figure())


def test_pyplot_is_never_loaded_and_matplotlib_only_by_a_picture():
    code = """if True:
        import sys, xprnn
        assert "matplotlib" not in sys.modules
        xprnn.plots.history([1.0, 0.5]).figure.canvas.draw()
        print("matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize("name", plots.__all__)
def test_without_matplotlib_a_picture_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    function, given = DRAWN[name]
    with pytest.raises(ImportError, match=re.escape("xprnn.plots needs matplotlib: pip install 'xprnn[plot]'")):
        function(*given)


X, DY = np.ones((4, 1, 2)), np.ones((4, 1, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: plots.history({"lr": [1.0]}),
            ValueError,
            '`history` must have "loss", or a name that ends in "_loss"',
        ),
        (lambda: plots.history({"loss": []}), ValueError, r"`history\['loss'\]` must have 1 axes, none of them 0"),
        (
            lambda: plots.history(["a"]),
            TypeError,
            r"`history\['loss'\]` must be an array or a list of numbers, got list",
        ),
        (
            lambda: plots.history({"epoch": [0, 1], "loss": [1.0]}),
            ValueError,
            r"`history\['loss'\]` must have an entry per epoch, 2, got 1",
        ),
        (
            lambda: plots.history({"loss": [1.0], "val_loss": [1.0, 2.0]}),
            ValueError,
            r"`history\['val_loss'\]` must have an entry per epoch, 1, got 2",
        ),
        (lambda: plots.predictions(None, X), TypeError, "`pred` must be an array or a list of numbers, got NoneType"),
        (lambda: plots.predictions(X, X * 1j), TypeError, "`target` must be of real numbers, got complex128"),
        (lambda: plots.predictions(X, X[:2]), ValueError, r"`target` must have the shape of `pred`, \(4, 1, 2\), got"),
        (lambda: plots.predictions(X[None], X), ValueError, "`pred` must have 1, 2 or 3 axes, none of them 0, got"),
        (lambda: plots.gradient_reach(xprnn.RNN, {}, X, DY), TypeError, "`model` must be a layer"),
        (lambda: plots.gradient_reach(LAYER, {}, [X], DY), TypeError, "`x` must be an array of floats, got list"),
        (
            lambda: plots.gradient_reach(LAYER, {}, X.astype(int), DY),
            TypeError,
            "`x` must be .* got integers; for toke",
        ),
        (lambda: plots.gradient_reach(LAYER, {}, X, 1.0), TypeError, "`loss` must be a function .* got float"),
        (lambda: plots.hidden_states(X[0, 0]), ValueError, r"`states` must have 2 or 3 axes.*, got shape \(2,\)"),
        (lambda: plots.hidden_pca(X[:, :, :1]), ValueError, "`states` must have at least 2 steps and 2 units"),
        (lambda: plots.hidden_pca(X * 0.1), ValueError, "`states` must change over time"),
        (lambda: plots.hidden_pca(X * np.nan), ValueError, "`states` must be finite, got NaN or inf"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
