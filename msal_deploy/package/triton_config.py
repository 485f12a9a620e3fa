"""Write Triton's config.pbtxt from ModelSpec, with Triton's protobuf schema, which rejects unknown fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from msal_deploy.errors import translate_missing_extra
from msal_deploy.package.triton_backends import Serving
from msal_deploy.package.triton_shapes import warm_up_name
from msal_deploy.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from msal_deploy.package.triton_version import About
    from msal_deploy.trt.plan_metadata import Shape

TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
QUEUE_DELAY = 500  # µs to wait for more requests; short compared with the milliseconds per image
QUEUE_SIZE = 256  # requests; further ones are rejected as unavailable
QUEUE_TIMEOUT = 60_000_000  # µs in the queue, then a request is rejected as unavailable; a request may ask for less
COMPILED_SHAPES = 4  # that OpenVINO keeps; each has a copy of the weights, packed for its shape
HEURISTIC = "1"  # of cudnn_conv_algo_search; 0, the default, times all algorithms at each new shape


def model_config(name: str, spec: ModelSpec, serving: Serving, about: About, warm_ups: Sequence[Shape]) -> str:
    """Return the text of config.pbtxt.

    Args:
        name: Name of the model.
        spec: What is served, with the shapes that are accepted.
        serving: How it is served.
        about: The first version.
        warm_ups: Shapes (N, H, W) to compute before the model is ready.

    Raises:
        MissingExtra: tritonclient is not installed.
    """
    with translate_missing_extra():
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2 as pb
    parameters = _parameters(spec, serving, about, warm_ups)
    config = pb.ModelConfig(
        name=name,
        max_batch_size=serving.max_batch,
        input=[pb.ModelInput(**_tensor(spec.image, pb))],
        output=[pb.ModelOutput(**_tensor(spec.probability, pb))],
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        instance_group=[_instances(serving, pb)],
        cc_model_filenames=serving.by_capability,
        default_model_filename=serving.default_file,
        dynamic_batching=_batching(serving, pb),
        optimization=_optimization(spec, warm_ups, pb) if serving.backend == "tensorrt" else None,
        model_warmup=[_warm_up(spec, shape, pb) for shape in warm_ups],
        parameters={key: pb.ModelParameter(string_value=value) for key, value in parameters.items()},
        **_backend(serving),
    )
    return str(text_format.MessageToString(config))


def _backend(serving: Serving) -> dict[str, str]:
    return {"backend": "python"} if serving.backend == "openvino" else {"platform": PLATFORMS[serving.backend]}


def _tensor(tensor: TensorSpec, pb: Any) -> dict[str, Any]:
    """Return name, type and dims of a tensor. The dims exclude the batch, which Triton adds."""
    dims = [axis if isinstance(axis, int) else -1 for axis in tensor.axes[1:]]
    return {"name": tensor.name, "data_type": pb.DataType.Value(TYPES[tensor.dtype]), "dims": dims}


def _instances(serving: Serving, pb: Any) -> Any:
    if not serving.on_gpu:
        return pb.ModelInstanceGroup(count=serving.instances, kind="KIND_CPU")
    # Without a list, each GPU gets instances, and the model does not load if one of them has no plan.
    return pb.ModelInstanceGroup(count=serving.instances, kind="KIND_GPU", gpus=[0])


def _batching(serving: Serving, pb: Any) -> Any:
    policy = pb.ModelQueuePolicy(
        max_queue_size=QUEUE_SIZE,
        timeout_action="REJECT",
        default_timeout_microseconds=QUEUE_TIMEOUT,
        allow_timeout_override=True,
    )
    best = [serving.best_batch] if serving.best_batch else []
    return pb.ModelDynamicBatching(
        preferred_batch_size=best, max_queue_delay_microseconds=QUEUE_DELAY, default_queue_policy=policy
    )


def _optimization(spec: ModelSpec, warm_ups: Sequence[Shape], pb: Any) -> Any:
    """Return the settings of plans: copies beside the computing, and CUDA graphs of the shapes that are warmed up."""
    policy = pb.ModelOptimizationPolicy
    graphs = [
        policy.Cuda.GraphSpec(
            batch_size=batch, input={spec.image.name: policy.Cuda.GraphSpec.Shape(dim=[*size, spec.image.axes[-1]])}
        )
        for batch, *size in warm_ups
    ]
    pinned = policy.PinnedMemoryBuffer(enable=True)
    cuda = policy.Cuda(graphs=True, graph_spec=graphs, output_copy_stream=True)
    return policy(cuda=cuda, input_pinned_memory=pinned, output_pinned_memory=pinned)


def _warm_up(spec: ModelSpec, shape: Shape, pb: Any) -> Any:
    batch, *size = shape
    image = pb.ModelWarmup.Input(
        data_type=pb.DataType.Value(TYPES[spec.image.dtype]),
        dims=[*size, spec.image.axes[-1]],
        input_data_file=warm_up_name(shape),
    )
    name = f"golden tile, {batch} x {size[0]} x {size[1]} px"
    return pb.ModelWarmup(name=name, batch_size=batch, inputs={spec.image.name: image})


def _parameters(spec: ModelSpec, serving: Serving, about: About, warm_ups: Sequence[Shape]) -> dict[str, str]:
    """Return facts for clients, and settings of the backend."""
    facts = {"model_spec": msgspec.json.encode(spec).decode(), about.parameter: about.summary()}
    if serving.backend == "openvino":
        return facts | {"threads": "0", "streams": "1", "shapes": str(max(COMPILED_SHAPES, len(warm_ups)))}
    if serving.backend == "onnxruntime" and serving.on_gpu:
        return facts | {"cudnn_conv_algo_search": HEURISTIC}
    return facts
