"""Sessions of ONNX Runtime on the CPU: exact on integers, and as fast as that can be."""

from functools import cache
from typing import Any

import numpy as np

PRECISION = "session.x64quantprecision"
TERMS = 64  # of the sum that tells kernels apart


def open_session(
    model: bytes | str,
    threads: int,
    precise: bool | None = None,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Open a session on the CPU.

    Args:
        model: an ONNX model, or the path of one.
        threads: threads of each operator.
        precise: whether int8 weights become uint8; by default where kernels saturate otherwise.
        options: attributes of onnxruntime's `SessionOptions`.

    Raises:
        Exception: onnxruntime cannot run the model; its own types.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    for name, value in options.items():
        setattr(settings, name, value)
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if saturates() if precise is None else precise:
        settings.add_session_config_entry(PRECISION, "1")
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


@cache
def saturates() -> bool:
    """Whether this CPU's kernels add products of uint8 and int8 in 16 bits, which they overflow.

    Those of x86 without VNNI do. With uint8 weights they are exact, but slow where the instructions
    of VNNI would have done: see `benchmarks/deploy.py`.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((TERMS, 16), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["codes", "weights"], ["sums"])],
        "saturation",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, [16, TERMS])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [16, 16])],
        [weights],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = open_session(model.SerializeToString(), 1, precise=False)
    (sums,) = session.run(None, {"codes": np.full((16, TERMS), 255, np.uint8)})
    return bool((sums != TERMS * 127 * 255).any())
