"""Write Triton's config.pbtxt from ModelSpec, with Triton's protobuf schema, which rejects unknown fields."""

from __future__ import annotations

from typing import Any

import msgspec

from msal_deploy import __version__
from msal_deploy.bundle import Bundle
from msal_deploy.errors import translate_missing_extra
from msal_deploy.package.triton_backends import Serving
from msal_deploy.spec import ModelSpec, TensorSpec

TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
QUEUE_DELAY = 500  # µs to wait for more requests; short compared with the milliseconds per image
QUEUE_SIZE = 256  # requests; further ones are rejected as unavailable
WARM_UP = "golden-tile.rgb"


def model_config(bundle: Bundle, serving: Serving, precision: str, warm_up: tuple[int, int]) -> str:
    """Return the text of config.pbtxt.

    Args:
        bundle: The bundle that is served.
        serving: How it is served.
        precision: Precision of the graph.
        warm_up: Height and width of the image in the file `WARM_UP`, in pixels.

    Raises:
        MissingExtra: tritonclient is not installed.
    """
    with translate_missing_extra():
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2 as pb
    spec = bundle.spec
    config = pb.ModelConfig(
        name=bundle.manifest.recipe.network.model,
        max_batch_size=serving.max_batch,
        input=[pb.ModelInput(**_tensor(spec.image, pb))],
        output=[pb.ModelOutput(**_tensor(spec.probability, pb))],
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        instance_group=[pb.ModelInstanceGroup(count=1, kind="KIND_GPU" if serving.on_gpu else "KIND_CPU")],
        cc_model_filenames=serving.by_capability,
        default_model_filename=serving.default_file,
        dynamic_batching=_batching(serving, pb),
        model_warmup=[_warm_up(spec, batch, warm_up, pb) for batch in sorted({1, serving.best_batch or 1})],
        parameters={
            key: pb.ModelParameter(string_value=value) for key, value in _parameters(bundle, serving, precision).items()
        },
        **_backend(serving),
    )
    return str(text_format.MessageToString(config))


def _backend(serving: Serving) -> dict[str, str]:
    return {"backend": "python"} if serving.backend == "openvino" else {"platform": PLATFORMS[serving.backend]}


def _tensor(tensor: TensorSpec, pb: Any) -> dict[str, Any]:
    """Return name, type and dims of a tensor. The dims exclude the batch, which Triton adds."""
    dims = [axis if isinstance(axis, int) else -1 for axis in tensor.axes[1:]]
    return {"name": tensor.name, "data_type": pb.DataType.Value(TYPES[tensor.dtype]), "dims": dims}


def _batching(serving: Serving, pb: Any) -> Any:
    policy = pb.ModelQueuePolicy(max_queue_size=QUEUE_SIZE)
    best = [serving.best_batch] if serving.best_batch else []
    return pb.ModelDynamicBatching(
        preferred_batch_size=best, max_queue_delay_microseconds=QUEUE_DELAY, default_queue_policy=policy
    )


def _warm_up(spec: ModelSpec, batch: int, size: tuple[int, int], pb: Any) -> Any:
    dtype = pb.DataType.Value(TYPES[spec.image.dtype])
    image = pb.ModelWarmup.Input(data_type=dtype, dims=[*size, spec.image.axes[-1]], input_data_file=WARM_UP)
    return pb.ModelWarmup(name=f"golden tile, batch {batch}", batch_size=batch, inputs={spec.image.name: image})


def _parameters(bundle: Bundle, serving: Serving, precision: str) -> dict[str, str]:
    """Return metadata for clients; the engine ``triton:URL`` compares the hash with its bundle's."""
    facts = {
        "graph": serving.graph,
        "graph_sha256": bundle.manifest.artifacts[serving.graph].sha256,
        "licence": bundle.manifest.licence,
        "model_spec": msgspec.json.encode(bundle.spec).decode(),
        "msal_deploy": __version__,
        "precision": precision,
    }
    return facts | ({"threads": "0", "streams": "1"} if serving.backend == "openvino" else {})
