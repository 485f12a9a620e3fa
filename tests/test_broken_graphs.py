"""A graph that a runtime cannot use is refused in one sentence, without the runtime's source files."""

import multiprocessing
import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

from msal_deploy.errors import BadInput
from msal_deploy.runtimes import open_engine


def _external(location):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        tensor.external_data.add(key="location", value=location)

    return change


def _rename(model):
    model.graph.output[0].name = model.graph.node[-1].output[0] = "mask"


DAMAGES = {
    "data outside": _external("../../etc/passwd"),
    "data missing": _external("weights.bin"),
    "dangling": lambda model: model.graph.node[2].input.__setitem__(0, "nowhere"),
    "unknown operator": lambda model: setattr(model.graph.node[2], "op_type", "Frobnicate"),
    "wrong weights": lambda model: model.graph.initializer[0].dims.__setitem__(1, 5),
    "float image": lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT),
    "two inputs": lambda model: model.graph.input.append(helper.make_tensor_value_info("more", 1, [1])),
    "other output": _rename,
    "no output": lambda model: model.graph.ClearField("output"),
    "no nodes": lambda model: model.graph.ClearField("node"),
    "rank 3": lambda model: model.graph.input[0].type.tensor_type.shape.dim.__delitem__(0),
}
RAW = {"text": b"not onnx\n", "empty": b"", "zeros": bytes(1000), "cut": None}


def _damaged(folder, name):
    """A bundle whose manifest has the hash of the damaged graph."""
    model = tiny_graph("fp32")
    if name in DAMAGES:
        DAMAGES[name](model)
        content = model.SerializeToString()
    else:
        content = RAW[name] if RAW[name] is not None else model.SerializeToString()[:2000]
    (folder / "graph.onnx").write_bytes(content)
    return put_graph(write_tiny_bundle(folder / "bundle"), "model.fp32.onnx", folder / "graph.onnx")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", [*DAMAGES, *RAW])
def test_a_broken_graph_is_refused_in_one_sentence(tmp_path, capfd, name, runtime):
    bundle = _damaged(tmp_path, name)
    with pytest.raises(BadInput) as raised, open_engine(bundle, f"{runtime}:fp32") as engine:
        engine(np.zeros((1, 32, 32, 3), np.uint8))
    text = str(raised.value)
    assert "\n" not in text
    assert not re.search(r"\.(cpp|cc|hpp|h)\b|Exception from|Check '|ONNXRuntimeError|::", text)
    assert len(raised.value.cause.replace(str(bundle.path), "")) < 320
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_of_one_size_only_is_refused_or_computed(tmp_path, runtime):
    model = tiny_graph("fp32")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 48
    onnx.save(model, tmp_path / "graph.onnx")
    bundle = put_graph(write_tiny_bundle(tmp_path / "bundle"), "model.fp32.onnx", tmp_path / "graph.onnx")
    with open_engine(bundle, f"{runtime}:fp32") as engine:
        try:
            engine(np.zeros((1, 32, 32, 3), np.uint8))
        except BadInput as error:
            assert "cannot compute images of shape [1, 32, 32, 3]" in error.cause


IMAGES = np.zeros((1, 32, 32, 3), np.uint8)


def _in_a_fork(work):
    """Return what `work` says in a forked process; it may not take longer than a minute."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child():
        try:
            sender.send(work())
        except RuntimeError as error:
            sender.send(str(error))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    try:
        assert receiver.poll(60), "the forked process hangs"
        return receiver.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("name", ["torch:fp32", "onnxruntime:fp32", "openvino:fp32"])
def test_an_engine_that_a_fork_inherits_says_so(bundle, name):
    with open_engine(bundle, name) as engine:
        engine(IMAGES)
        assert "was opened before this process was forked" in _in_a_fork(lambda: engine(IMAGES))
        assert _in_a_fork(lambda: engine.__exit__(None, None, None)) is None
        assert engine(IMAGES).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("name", ["torch:fp32", "onnxruntime:fp32", "openvino:fp32"])
def test_a_fork_opens_an_engine_of_its_own_or_says_why_not(bundle, name):
    with open_engine(bundle, name) as engine:
        before = engine(IMAGES)

    def work():
        with open_engine(bundle, name) as engine:
            return np.array_equal(engine(IMAGES), before)

    said = _in_a_fork(work)
    if name == "onnxruntime:fp32":
        assert said is True
    else:
        assert "was used before this process was forked" in said
