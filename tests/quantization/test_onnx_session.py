"""Sessions compute integers exactly on any CPU, and pay for it only where they must."""

import numpy as np
import pytest

from quantization import onnx_session
from quantization.onnx_session import PRECISION, open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def model_of(weights):
    """A product of uint8 codes and these int8 weights, between quantization and dequantization."""
    helper, kinds = onnx.helper, onnx.TensorProto
    rows, columns = weights.shape
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "one", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["weights", "one", "zero8"], ["floats"]),
        helper.make_node("MatMul", ["values", "floats"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["sum codes"]),
        helper.make_node("DequantizeLinear", ["sum codes", "step", "zero"], ["y"]),
    ]
    constants = {
        "one": np.float32(1),
        "step": np.float32(rows * 127),
        "zero": np.uint8(0),
        "zero8": np.int8(0),
        "weights": weights,
    }
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [2, rows])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, [2, columns])],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_products_of_the_largest_codes_are_exact():
    weights = np.full((64, 32), 127, np.int8)
    session = open_session(model_of(weights), 1)
    (found,) = session.run(None, {"x": np.full((2, 64), 255, np.float32)})
    assert (found == 255 * 64 * 127).all()


@pytest.mark.parametrize("saturates", [True, False])
def test_weights_become_uint8_only_where_kernels_saturate(monkeypatch, saturates):
    monkeypatch.setattr(onnx_session, "saturates", lambda: saturates)
    session = open_session(model_of(np.eye(64, 32, dtype=np.int8)), 1)
    options = session.get_session_options()
    if saturates:
        assert options.get_session_config_entry(PRECISION) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(PRECISION)


def test_uint8_weights_give_the_same_sums_where_kernels_are_exact():
    if onnx_session.saturates():
        pytest.skip("this CPU's kernels saturate, and only uint8 weights are exact")
    draw = np.random.default_rng(0)
    weights = draw.integers(-127, 128, (64, 32), dtype=np.int8)
    codes = draw.integers(0, 256, (2, 64)).astype(np.float32)
    one, other = (open_session(model_of(weights), 1, precise=p) for p in (True, False))
    assert (one.run(None, {"x": codes})[0] == other.run(None, {"x": codes})[0]).all()


def test_options_of_a_session_are_taken(tmp_path):
    prefix = str(tmp_path / "profile")
    session = open_session(
        model_of(np.eye(64, 32, dtype=np.int8)),
        1,
        enable_profiling=True,
        profile_file_prefix=prefix,
    )
    assert session.end_profiling().startswith(prefix)
