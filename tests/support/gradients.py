"""Gradients on a backend: on NumPy against differences, elsewhere against NumPy's, in every shape of call."""

import numpy as np

from tests.support.call_failures import Host, there
from tests.support.close import assert_close
from xprnn import Sequential, tree
from xprnn.testing import check_gradients
from xprnn.testing.calls import Problem, branch, calls_of


def assert_gradients(layer, params, x, state0=None, *, backend, kernel=None, **options):
    """Check that a layer's gradients are the derivatives; the arguments are host arrays.

    On NumPy that is `check_gradients`. Another library must return NumPy's numbers in each call of `backward` that it
    makes, with and without a state0.
    """
    kernel = kernel or backend.kernel
    if backend.name == "numpy":
        report = check_gradients(layer, params, x, state0, kernel=kernel, **options)
        assert report.worst.error < 1e-9  # its bar is 1e-7
        assert {f"params.{path}" for path, _ in tree.items(tree.trainable(params))} <= {row.name for row in report.rows}
        return
    if isinstance(layer, Sequential):
        options["outputs"] = tuple(str(k) for k in range(len(layer.layers)))
    state = layer.forward(params, x, state0, **options)[1]
    other = (state if state0 is None else None,) if tree.leaves(state) else ()
    for begin in (state0, *other):
        expected = every_gradient(layer, params, x, begin, Host(), options)
        assert_close(every_gradient(layer, params, x, begin, backend, options | {"kernel": kernel}), expected)


def every_gradient(layer, params, x, state0, backend, options):
    """Return what `forward` returns, and the gradients by every call of `backward`, on the host."""
    params, x, state0, options = there((params, x, state0, options), backend)
    problem, inputs = Problem(layer, params, x, options), {"params": tree.trainable(params), "state0": state0}
    if "int" not in str((x[0] if isinstance(x, list) else x).dtype):
        inputs["x"] = branch(x)
    results, cache = problem.forward(inputs)
    rng = np.random.default_rng(0)
    weights = tree.map(lambda a: backend.asarray(rng.standard_normal(tuple(a.shape))), results)
    calls = {call.name: problem.backward(cache, call, inputs) for call in calls_of(weights)}
    return backend.to_numpy({"results": results} | calls)
