"""A fake trtexec, with the real options, messages and file formats. ONNX Runtime computes.

These follow NVIDIA's source (samples/trtexec and samples/common of the simulated release): the options, and the error
for any other; `name=value` arguments; the first line with the version; "Unknown option", "Selected Device", "Compute
Capability", "TensorRT version", "GPU Compute Time"; the JSON of --exportOutput with six significant digits and C++'s
nan; the size check of --loadInputs; --timingCacheFile, and what a damaged one causes. The builders follow TensorRT's
guide: 8.6 has precision flags and may fall back, 10 needs --stronglyTyped, and 11 is always strongly typed.

FAKE_TRTEXEC in the environment is JSON: version, sm, gpu, and failures to simulate (`computes`, `off`, `silent`,
`builder`, `dies`). `gpus` maps the UUIDs of several GPUs to their sm and gpu; CUDA_VISIBLE_DEVICES chooses one, and
without it the first is used.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

WORLD: dict[str, Any] = {"version": "8.6.1", "sm": "6.1", "gpu": "NVIDIA GeForce GTX 1080 Ti"}
WORLD |= json.loads(os.environ.get("FAKE_TRTEXEC", "{}"))
if "gpus" in WORLD:
    WORLD |= WORLD["gpus"][os.environ.get("CUDA_VISIBLE_DEVICES") or next(iter(WORLD["gpus"]))]
VERSION = tuple(int(part) for part in WORLD["version"].split("."))
WORDS_8 = {
    "fp32": "Row major linear FP32",
    "fp16": "Two wide channel vectorized row major FP16 format",
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
}
WORDS_10 = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}


def say(level: str, text: str) -> None:
    stream = sys.stdout if level == "I" else sys.stderr  # as the samples' logger does
    print(f"[11/22/2025-12:00:00] [{level}] {text}", file=stream, flush=True)


def end(passed: bool) -> None:
    print(f"&&&& {'PASSED' if passed else 'FAILED'} TensorRT.trtexec", flush=True)
    sys.exit(0 if passed else 1)


def refuse(text: str) -> None:
    say("E", text)
    end(False)


def main() -> None:
    if WORLD.get("dies"):
        sys.exit("trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open shared object file")
    number = VERSION[0] * (1000 if VERSION[0] < 10 else 10000) + VERSION[1] * 100 + VERSION[2]
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # {' '.join(sys.argv)}", flush=True)
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    known = json.loads(Path(__file__).with_name("trtexec_options.json").read_text())[WORLD["version"]]["options"]
    for name in given.keys() - set(known):
        say("E", f"Unknown option: {name} {given[name]}")
    if given.keys() - set(known):
        end(False)
    if "--help" in given:
        print("=== Model Options ===")
        end(True)
    say("I", "=== Device Information ===")
    say("I", f"Selected Device: {WORLD['gpu']}")
    say("I", f"Compute Capability: {WORLD['sm']}")
    say("I", f"TensorRT version: {WORLD['version']}")
    if "--onnx" in given:
        build(given)
    elif "--loadEngine" in given:
        infer(given)
    else:
        refuse("Model missing or format not recognized")
    end(True)


def shapes(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, extents = text.rpartition(":")
    return name, tuple(int(extent) for extent in extents.split("x"))


def build(given: dict[str, str]) -> None:
    from msal_deploy.graph import layers, load_graph

    if not Path(given["--onnx"]).is_file():
        refuse(f"Could not open file {given['--onnx']}")
    model = load_graph(Path(given["--onnx"]))
    points = [shapes(given[name]) for name in ("--minShapes", "--optShapes", "--maxShapes")]
    if any(name != model.graph.input[0].name for name, _ in points):
        refuse(f'Cannot find input tensor with name "{points[0][0]}" in the network inputs!')
    if WORLD.get("builder") == "fails":
        refuse("Error Code 10: Internal Error (Could not find any implementation for node /network/head/Conv.)")
    requested = {layer.name: layer.precision for layer in layers(model)}
    computed = weakly_typed(given, requested) if VERSION[0] < 10 else strongly_typed(given, requested)
    if "--timingCacheFile" in given:
        time_layers(Path(given["--timingCacheFile"]), {f"{name} {kind}" for name, kind in computed.items()})
    if "computes" in WORLD:
        computed = dict.fromkeys(computed, WORLD["computes"])
    plan = {"onnx": str(Path(given["--onnx"]).resolve()), "profile": [list(extents) for _, extents in points]}
    Path(given["--saveEngine"]).write_text(json.dumps(plan))
    if "--exportLayerInfo" in given:
        detailed = given.get("--profilingVerbosity") == "detailed" and not WORLD.get("silent")
        listed = [described(name, kind) if detailed else name for name, kind in computed.items()]
        Path(given["--exportLayerInfo"]).write_text(
            json.dumps({"Layers": listed, "Bindings": ["image", "probability"]})
        )
    if "--skipInference" in given:
        say("I", "Skipped inference phase since --skipInference is added.")


def time_layers(path: Path, tactics: set[str]) -> None:
    """Read the timing cache, and write it with what was timed, as samples/common/common.h of 8.6.1 does.

    TensorRT takes no times from a cache of another release or GPU. A damaged cache ends the build.
    """
    known: set[str] = set()
    if path.is_file():
        say("I", f"Loaded {path.stat().st_size} bytes of timing cache from {path}")
        try:
            cache = json.loads(path.read_text())
        except ValueError:
            refuse("TimingCache creation failed")
        if (cache["version"], cache["gpu"]) == (WORLD["version"], WORLD["gpu"]):
            known = set(cache["tactics"])
    else:
        say("W", f"Could not read timing cache from: {path}. A new timing cache will be generated and written.")
    say("V", f"{len(tactics - known)} tactics timed, {len(tactics & known)} taken from the timing cache")
    text = json.dumps({"version": WORLD["version"], "gpu": WORLD["gpu"], "tactics": sorted(known | tactics)})
    path.write_text(text)
    say("I", f"Saved {len(text)} bytes of timing cache to {path}")


def weakly_typed(given: dict[str, str], graph: dict[str, str]) -> dict[str, str]:
    """TensorRT 8: types do not bind the builder. A flag permits a precision, and a layer's constraint requires it."""
    for kind in {"fp16", "int8"} & set(graph.values()):
        if f"--{kind}" not in given:
            refuse(f"Error Code 4: Internal Error ({kind} precision has been set for a layer, but is not configured)")
    constraints = dict(word.rsplit(":", 1) for word in given.get("--layerPrecisions", "").split(",") if word)
    if given.get("--precisionConstraints") != "obey":
        constraints = {}
    return {name: kind if kind != "fp16" else constraints.get(name, "fp32") for name, kind in graph.items()}


def strongly_typed(given: dict[str, str], graph: dict[str, str]) -> dict[str, str]:
    """TensorRT 10 and later: strongly typed networks keep the precisions of the graph; others need flags."""
    if VERSION[0] == 10 and "--stronglyTyped" not in given and set(graph.values()) != {"fp32"}:
        refuse("Error Code 4: API Usage Error (precision has been set for a layer, but is not configured)")
    return graph


def described(name: str, kind: str) -> dict[str, Any]:
    words = (WORDS_8 if VERSION[0] < 10 else WORDS_10)[kind]
    return {
        "Name": f"{name} + {name.replace('Conv', 'Relu')}",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Location": "Device", "Dimensions": [-1, 64, -1, -1], "Format/Datatype": words}],
        "Outputs": [{"Name": "y", "Location": "Device", "Dimensions": [-1, 64, -1, -1], "Format/Datatype": words}],
        "ParameterType": "Convolution",
        "Metadata": f"[ONNX Layer: {name}]",
    }


def infer(given: dict[str, str]) -> None:
    plan = json.loads(Path(given["--loadEngine"]).read_text())
    name, extents = shapes(given["--shapes"])
    low, _, high = plan["profile"]
    if not all(a <= b <= c for a, b, c in zip(low, extents, high, strict=True)):
        refuse(f"Set dynamic dimensions {extents} do not satisfy any optimization profiles.")
    if "--exportOutput" in given:
        image = loaded(given, name, extents)
        write_json(Path(given["--exportOutput"]), computed(plan["onnx"], image))
    say("I", "=== Performance summary ===")
    say("I", "GPU Compute Time: min = 9.1 ms, max = 9.9 ms, mean = 9.4 ms, median = 9.3 ms, percentile(90%) = 9.7 ms")
    say("I", "Total GPU Compute Time: 3.01 s")


def loaded(given: dict[str, str], name: str, extents: tuple[int, ...]) -> np.ndarray:
    tensor, _, path = given["--loadInputs"].rpartition(":")
    data = np.fromfile(path, np.uint8)
    if tensor != name or data.size != np.prod(extents):
        refuse(f"Unexpected file size for input file: {path}. Note: Expected: {np.prod(extents)} bytes but only read")
    return data.reshape(extents)


def computed(graph: str, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    from msal_deploy.fp16_emulation import emulate_fp16
    from msal_deploy.graph import load_graph

    model = load_graph(Path(graph))
    content = (emulate_fp16(model) if "fp16" in Path(graph).name else model).SerializeToString()
    (probability,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
        None, {"image": image}
    )
    if "off" in WORLD:
        probability = probability + np.float32(WORLD["off"])
    return probability


def write_json(path: Path, probability: np.ndarray) -> None:
    values = ", ".join(f"{value:g}" for value in probability.ravel().tolist())  # as C++ streams print a float
    dimensions = "x".join(map(str, probability.shape))
    path.write_text(
        f'[\n  {{ "name" : "probability"\n  , "dimensions" : "{dimensions}"\n  , "values" : [ {values} ]\n  }}\n]\n'
    )


if __name__ == "__main__":
    main()
