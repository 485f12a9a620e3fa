"""The FP16 emulation rounds and overflows like FP16, which ONNX Runtime's CPU provider does not."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from msal_deploy.fp16_emulation import emulate_fp16


def fp16_graph(added: float) -> onnx.ModelProto:
    """(x + added) − added, in FP16."""
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["half", "added"], ["sum"]),
        helper.make_node("Sub", ["sum", "added"], ["difference"]),
        helper.make_node("Cast", ["difference"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    constant = numpy_helper.from_array(np.float16([added]), "added")
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [constant]), opset_imports=[helper.make_opsetid("", 17)]
    )


def compute(model: onnx.ModelProto, x: float) -> float:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.float32([x])})[0][0])


@pytest.mark.parametrize(("added", "x"), [(1, 1e-4), (2048, 1), (0.1, 0.2)])
def test_results_are_rounded_like_numpy_float16(added, x):
    rounded = np.float16(np.float16(x) + np.float16(added))
    expected = float(np.float16(rounded - np.float16(added)))
    assert compute(emulate_fp16(fp16_graph(added)), x) == expected
    onnx.checker.check_model(emulate_fp16(fp16_graph(added)), full_check=True)


def test_values_outside_the_range_become_infinite():
    assert np.isinf(compute(emulate_fp16(fp16_graph(60000)), 60000))


def test_onnx_runtime_alone_computes_in_fp32():
    """The reason for the emulation: if this test fails one day, `emulate_fp16` is no longer needed."""
    assert compute(fp16_graph(60000), 60000) == pytest.approx(60000, rel=1e-3)


def test_input_graph_is_not_changed():
    model = fp16_graph(1)
    before = model.SerializeToString()
    emulate_fp16(model)
    assert model.SerializeToString() == before
