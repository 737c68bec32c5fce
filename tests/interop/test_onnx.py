"""The ONNX operators: other implementations' vectors, onnxruntime live, every backend, the layer behind, refusals."""

import json
import os
import pathlib

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import tree
from xprnn.cells import GRU, LSTM
from xprnn.cells.gru import StepCache
from xprnn.interop import onnx
from xprnn.interop.gates import ORDERS
from xprnn.interop.onnx_node import GATES, INPUTS

VECTORS = pathlib.Path(
    os.environ.get("XPRNN_CONFORMANCE", pathlib.Path(__file__).parents[3] / "shared" / "conformance")
)


def cases():
    """Return (name, case, arrays) of every vector; none where the folder is absent."""
    found = []
    for path in sorted(VECTORS.glob("*_cases.json")):
        held = json.loads(path.read_text())
        if "arrays" in held:
            found += [(f"{path.stem}-{k}-{case['name']}", case, held["arrays"]) for k, case in enumerate(held["cases"])]
    return found


CASES = cases()


@pytest.mark.skipif(not CASES, reason=f"there are no vectors in {VECTORS}")
def test_all_vectors_of_other_implementations_are_met():
    refused = []
    for name, case, arrays in CASES:

        def tensor(held, arrays=arrays):
            if held is None:
                return None
            shape, k = held
            return np.array(arrays[k][1], dtype=arrays[k][0]).reshape(shape)

        inputs = {key: tensor(value) for key, value in case["inputs"].items()}
        if "error" in case:
            with pytest.raises(ValueError, match="`sequence_lens` must"):
                onnx.run_node(case["op"], case["attrs"], inputs)
            refused.append(name)
            continue
        actual = onnx.run_node(case["op"], case["attrs"], inputs)
        for key, held in case["outputs"].items():
            expected = tensor(held)
            assert actual[key].shape == expected.shape, (name, key)
            allowed = case["atol"] + case.get("rtol", 0.0) * np.abs(expected)
            assert (np.abs(actual[key] - expected) <= allowed).all(), (name, key)
    assert len(CASES) - len(refused) == 219
    assert len(refused) == 2


# -- onnxruntime ----------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "Tanh": 0, "Sigmoid": 0, "Relu": 0, "Softsign": 0, "Softplus": 0, "LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1,
    "HardSigmoid": 2, "Affine": 2, "ScaledTanh": 2,
}  # fmt: skip
"""How many numbers each takes."""

SURE = FUNCTIONS.keys() - {"ThresholdedRelu", "Affine", "ScaledTanh"}
"""Those for whose numbers onnxruntime has ONNX's defaults; for the others it takes 0."""


def drawn(rng):
    """Return op, attributes and inputs of a random node over the whole contract, float32, layout 0."""
    op = str(rng.choice(["RNN", "GRU", "LSTM"]))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D, G = 2 if direction == "bidirectional" else 1, GATES[op]
    T, B, I, H = (int(n) for n in rng.integers(1, 6, 4))
    attributes = {"direction": direction, "hidden_size": H}
    if rng.random() < 0.6:
        names = [str(name) for name in rng.choice(list(FUNCTIONS), {"RNN": 1, "GRU": 2, "LSTM": 3}[op] * D)]
        attributes["activations"] = names
        if rng.random() < 0.6 or not SURE.issuperset(names):
            numbers = [(0.5 + 0.5 * rng.random(), rng.random() - 0.5) for name in names for _ in range(1)]
            attributes["activation_alpha"] = [
                float(a) for name, (a, _) in zip(names, numbers, strict=True) if FUNCTIONS[name] > 0
            ]
            attributes["activation_beta"] = [
                float(b) for name, (_, b) in zip(names, numbers, strict=True) if FUNCTIONS[name] > 1
            ]
            attributes = {key: value for key, value in attributes.items() if value != []}
    if rng.random() < 0.4:
        attributes["clip"] = float(rng.uniform(0.2, 1.0))
    if op == "GRU":
        attributes["linear_before_reset"] = int(rng.integers(2))
    if op == "LSTM":
        attributes["input_forget"] = int(rng.integers(2))

    def normal(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    inputs = {"X": normal(T, B, I), "W": normal(D, G * H, I), "R": normal(D, G * H, H)}
    optional = {"B": (D, 2 * G * H), "initial_h": (D, B, H)}
    if op == "LSTM":
        optional |= {"initial_c": (D, B, H), "P": (D, 3 * H)}
    inputs |= {name: normal(*shape) for name, shape in optional.items() if rng.random() < 0.6}
    if rng.random() < 0.5:
        inputs["sequence_lens"] = rng.integers(0, T + 1, B).astype(np.int32)
    return op, attributes, inputs


def by_onnxruntime(ort, helper, op, attributes, inputs):
    names = INPUTS[op]
    last = max(k for k, name in enumerate(names) if name in inputs)
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, [n if n in inputs else "" for n in names[: last + 1]], outputs, **attributes)
    kinds = {np.dtype(np.float32): 1, np.dtype(np.int32): 6}
    given = [helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in inputs.items()]
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info(n, 1, None) for n in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


def test_random_nodes_equal_onnxruntime(request):
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the judge here, is not installed")
    helper = pytest.importorskip("onnx", reason="onnx, which writes the model, is not installed").helper
    rng = np.random.default_rng(20261124)
    for k in range(300):
        op, attributes, inputs = drawn(rng)
        expected = by_onnxruntime(ort, helper, op, attributes, inputs)
        actual = onnx.run_node(op, attributes, inputs)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert value.shape == actual[name].shape
            assert np.isfinite(value).all(), (k, op, attributes)
            worst = np.abs(actual[name] - value).max(initial=0.0) / max(np.abs(value).max(initial=0.0), 1.0)
            assert worst <= 1e-5, (k, op, attributes, list(inputs), name, worst)


# -- layouts, backends, training ------------------------------------------------------------------------------------


def swapped(a):
    return np.swapaxes(a, 0, 1)


def test_layout_1_is_layout_0_with_the_batch_first(rng):
    for _ in range(60):
        op, attributes, inputs = drawn(rng)
        expected = onnx.run_node(op, attributes, inputs)
        moved = {k: swapped(a) if k in ("X", "initial_h", "initial_c") else a for k, a in inputs.items()}
        actual = onnx.run_node(op, attributes | {"layout": 1}, moved)
        order = {"Y": (2, 0, 1, 3)}
        for name, value in expected.items():
            np.testing.assert_array_equal(actual[name], np.transpose(value, order.get(name, (1, 0, 2))))


def test_a_node_gives_the_same_on_every_backend(backend, rng):
    if backend.name == "numpy:readonly":
        pytest.skip("a node runs by the kernel that `select` chooses, which writes in place")
    for _ in range(6):
        op, attributes, inputs = drawn(rng)
        wide = {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in inputs.items()}
        expected = onnx.run_node(op, attributes, wide)
        assert_close(backend.to_numpy(onnx.run_node(op, attributes, backend.asarrays(wide))), expected)


def test_the_layer_behind_a_node_trains(rng):
    trained = set()
    for _ in range(70):
        op, attributes, inputs = drawn(rng)
        attributes = {k: v for k, v in attributes.items() if k not in ("clip", "activations") and "activation" not in k}
        wide = {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in inputs.items()}
        layer, params, call = onnx.from_node(op, attributes, wide)
        report = xprnn.testing.check_gradients(layer, params, call.pop("x"), call.pop("state0"), **call)
        assert report.worst.error < 1e-8
        trained.add((op, attributes["direction"]))
    assert len(trained) == 9


# -- refusals -------------------------------------------------------------------------------------------------------

T, B, I, H = 3, 2, 4, 5


def node(op="LSTM", D=1, **changes):
    G = GATES[op]
    inputs = {"X": np.ones((T, B, I)), "W": np.ones((D, G * H, I)), "R": np.ones((D, G * H, H))}
    return inputs | changes


@pytest.mark.parametrize(
    ("op", "attributes", "inputs", "kind", "message"),
    [
        ("Conv", {}, {}, ValueError, "`op_type` must be one of 'RNN', 'GRU', 'LSTM', got 'Conv'"),
        ("RNN", {"input_forget": 1}, {}, ValueError, "`attributes` has the unknown name 'input_forget'; RNN takes"),
        ("GRU", {}, {"P": np.ones((1, 15))}, ValueError, "`inputs` has the unknown name 'P'; GRU takes"),
        ("LSTM", {}, {"W": None}, ValueError, "`inputs` lacks 'W'"),
        ("LSTM", {"direction": "back"}, {}, ValueError, "`direction` must be one of 'forward', 'reverse'"),
        ("LSTM", {"layout": 2}, {}, ValueError, "`layout` must be one of 0, 1, got 2"),
        ("LSTM", {"clip": -1.0}, {}, ValueError, "`clip` must be at least 0, got -1.0"),
        ("LSTM", {"hidden_size": 7}, {}, ValueError, "`hidden_size` must be H = 5, the last axis of R, got 7"),
        ("LSTM", {"activations": ["Tanh"]}, {}, ValueError, "`activations` must be 3 per direction, 3 in all, got 1"),
        ("RNN", {"activations": ["Sin"]}, {}, ValueError, "`activations` must be of tanh, .* got 'Sin'"),
        ("RNN", {"activation_alpha": [0.1]}, {}, ValueError, "`activation_alpha` has 1 more numbers than"),
        ("LSTM", {}, {"W": np.ones((1, 3, 4))}, ValueError, r"`W` must have shape \(D, G\*H, I\) = \(1, 20, 4\)"),
        (
            "LSTM",
            {},
            {"R": np.ones((20, 5))},
            ValueError,
            r"`R` must have three axes, \(D, G\*H, H\), got shape \(20, 5\)",
        ),
        ("LSTM", {}, {"R": np.ones((1, 20, 6))}, ValueError, r"`R` must have shape \(D, G\*H, H\) = \(1, 24, 6\), got"),
        (
            "LSTM",
            {},
            {"X": np.ones((0, 2, 4))},
            ValueError,
            r"`X` \(T, B, I\) must have no axis of length 0 but B, got",
        ),
        ("LSTM", {"layout": "1"}, {}, ValueError, "`layout` must be one of 0, 1, got '1'"),
        ("LSTM", {"layout": 0.5}, {}, ValueError, "`layout` must be one of 0, 1, got 0.5"),
        ("GRU", {"linear_before_reset": "0"}, {}, ValueError, "`linear_before_reset` must be one of 0, 1, got '0'"),
        ("LSTM", {"input_forget": [1]}, {}, ValueError, r"`input_forget` must be one of 0, 1, got \[1\]"),
        ("LSTM", {"hidden_size": 5.0}, {}, TypeError, "`hidden_size` must be an int, got 5.0"),
        ("RNN", {"activations": "Tanh"}, {}, TypeError, "`activations` must be a list, got 'Tanh'"),
        (
            "RNN",
            {"activations": ["Elu"], "activation_alpha": 0.1},
            {},
            TypeError,
            "`activation_alpha` must be a list, got",
        ),
        ("RNN", {"activation_alpha": ["x"]}, {}, TypeError, r"`activation_alpha\[0\]` must be a number, got 'x'"),
        ("RNN", {"activation_beta": [np.nan]}, {}, ValueError, r"`activation_beta\[0\]` must be finite, got nan"),
        ("LSTM", {}, {"B": np.ones((1, 20))}, ValueError, r"`B` must have shape \(D, 2\*G\*H\) = \(1, 40\)"),
        ("LSTM", {}, {"P": np.ones((1, 20))}, ValueError, r"`P` must have shape \(D, 3\*H\) = \(1, 15\)"),
        ("LSTM", {}, {"initial_h": np.ones((2, 1, 5))}, ValueError, r"`initial_h` must have shape \(D, B, H\)"),
        ("LSTM", {}, {"W": np.ones((1, 20, 4), np.float32)}, TypeError, "`W` must be float64 like `X`, got float32"),
        ("LSTM", {}, {"sequence_lens": np.ones(2)}, ValueError, "`sequence_lens` must be integers of shape"),
        ("LSTM", {}, {"sequence_lens": np.array([1, 4])}, ValueError, "`sequence_lens` must lie in 0 … T = 3"),
        ("LSTM", {}, {"X": [[1.0]]}, TypeError, "`X` must be an array"),
        ("LSTM", {}, {"R": [[1.0]]}, TypeError, "`R` must be a numpy array like `X`, got list"),
        ("LSTM", {}, {"sequence_lens": [1, 2]}, TypeError, "`sequence_lens` must be a numpy array like `X`"),
    ],
)
def test_bad_nodes_are_refused(op, attributes, inputs, kind, message):
    with pytest.raises(kind, match=message):
        onnx.run_node(op, attributes, node(op if op in GATES else "LSTM", **inputs))


def test_attributes_and_inputs_are_mappings():
    for attributes, inputs, name in ((None, node(), "attributes"), ({}, None, "inputs"), ({}, [1], "inputs")):
        with pytest.raises(TypeError, match=f"`{name}` must be a mapping of ONNX's names, got"):
            onnx.run_node("LSTM", attributes, inputs)


def test_attributes_may_be_in_any_type_that_a_reader_gives(rng):
    inputs = tree.map(lambda a: rng.standard_normal(a.shape), node("RNN"))
    expected = onnx.run_node("RNN", {"activations": ["Elu"], "activation_alpha": [0.25], "clip": 1.0}, inputs)
    attributes = {"activations": np.array(["Elu"]), "activation_alpha": np.array([0.25]), "clip": np.float32(1.0)}
    attributes |= {"layout": np.array(0), "direction": b"forward", "hidden_size": np.int64(H)}
    for op, more in (("RNN", {}), (np.str_("RNN"), {"activations": (b"Elu",), "direction": np.str_("forward")})):
        for name, a in onnx.run_node(op, attributes | more, inputs).items():
            np.testing.assert_array_equal(a, expected[name])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint64"])
def test_lengths_of_narrow_integers_do_not_wrap_round(dtype, rng):
    inputs = {"X": rng.standard_normal((300, 2, 1)), "W": np.ones((1, 1, 1)), "R": np.ones((1, 1, 1))}
    wide, narrow = (inputs | {"sequence_lens": np.array([100, 50]).astype(kind)} for kind in ("int64", dtype))
    for name, a in onnx.run_node("RNN", {}, wide).items():
        np.testing.assert_array_equal(onnx.run_node("RNN", {}, narrow)[name], a)


def test_orders_are_those_of_each_library():
    """By the letters of each library's own documentation, and ours by the cells themselves."""
    assert LSTM().letters == ORDERS["xprnn"]["LSTM"]
    assert "".join(GRU().trace(StepCache())) == ORDERS["xprnn"]["GRU"]
    assert ORDERS["torch"] == {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"}  # W_ir|W_iz|W_in, W_ii|W_if|W_ig|W_io
    assert ORDERS["keras"] == {"RNN": "h", "GRU": "zrn", "LSTM": "ifgo"}  # z, r, h; i, f, c, o


def test_directions_with_different_activations_have_no_layer_but_run(rng):
    inputs = tree.map(lambda a: rng.standard_normal(a.shape), node("GRU", D=2))
    attributes = {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "HardSigmoid", "Relu"]}
    with pytest.raises(ValueError, match="`activations` differ between the directions"):
        onnx.from_node("GRU", attributes, inputs)
    both = onnx.run_node("GRU", attributes, inputs)
    for k, direction in enumerate(("forward", "reverse")):
        own = {name: a if name == "X" else a[k : k + 1] for name, a in inputs.items()}
        alone = {"direction": direction, "activations": attributes["activations"][2 * k : 2 * k + 2]}
        expected = onnx.run_node("GRU", alone, own)
        np.testing.assert_array_equal(both["Y"][:, k : k + 1], expected["Y"])
        np.testing.assert_array_equal(both["Y_h"][k : k + 1], expected["Y_h"])
