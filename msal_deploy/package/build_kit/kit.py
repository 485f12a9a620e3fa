"""The Python part of build.sh: check the machine, and check and describe a plan. Needs Python 3.9 and nothing else.

    python3 kit.py check "FIRST LINE OF TRTEXEC" MIN OPT MAX     print TensorRT's version
    python3 kit.py gpu [WANTED]                                  print the UUID of the GPU to build on
    python3 kit.py tolerance int8                                print the largest mean |dp| on the golden tiles
    python3 kit.py sidecar int8 PLAN LAYERS LOG MIN OPT MAX      write PLAN.json and print the precision of the plan
    python3 kit.py add BUNDLE                                    copy the plans into a bundle and list them there

PLAN.json is the metadata that msal-deploy reads before it loads a plan. Shapes are in trtexec's format: 4x512x512x3.
Exit codes: 1 the plan is not in the requested precision, 2 wrong usage, 3 the machine does not meet the requirements.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from msal_deploy.trt.layer_precisions import (
        MIN_READ,
        LayerPrecisions,
        Mismatch,
        check_layers,
        check_requested,
        format_flops,
        precision_shares,
        read_inspector_json,
        read_share,
    )
else:  # in a kit, where packaging has copied that file beside this one
    from layer_precisions import (
        MIN_READ,
        LayerPrecisions,
        check_layers,
        check_requested,
        format_flops,
        precision_shares,
        read_inspector_json,
        read_share,
    )

HERE = Path(__file__).resolve().parent


class Layer(NamedTuple):
    """A layer of the graph, as in kit.json."""

    name: str
    precision: str
    macs: int


def fail(code: int, message: str) -> NoReturn:
    """Print an error and exit with `code`."""
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(code)


def check(kit: dict[str, Any], line: str, shapes: list[tuple[int, ...]]) -> str:
    """Check TensorRT and the shapes, and return TensorRT's version, such as ``8.6.1``."""
    match = re.search(r"\[TensorRT v(\d+)\]", line)
    if not match:
        output = " ".join(line.split())[:200] or "no output"
        fail(3, f"trtexec does not start ({output}); install TensorRT, or use the Dockerfile")
    version = format_version(int(match[1]))
    first, last = parse_version(kit["first"]), parse_version(kit["last"] or "99")
    if not first <= parse_version(version) or parse_version(version)[: len(last)] > last:
        supported = f"{kit['first']} to {kit['last']}" if kit["last"] else f"{kit['first']} or later"
        fail(3, f"Expected TensorRT {supported} for {kit['gpu']}, got {version}; use the Dockerfile")
    check_shapes(shapes, tuple(kit["golden"]))
    return version


def format_version(number: int) -> str:
    """Format 8601 as 8.6.1, and 101600 as 10.16.0: from TensorRT 10 on, each part has two digits."""
    parts = (number // 1000, number // 100 % 10, number % 100)
    if number >= 10000:
        parts = (number // 10000, number // 100 % 100, number % 100)
    return ".".join(map(str, parts))


def parse_version(version: str) -> tuple[int, ...]:
    """Return the parts of a version as integers."""
    return tuple(int(part) for part in version.split("."))


class Gpu(NamedTuple):
    """A GPU of this machine, as nvidia-smi lists it."""

    number: str
    uuid: str
    sm: str


def choose_gpu(kit: dict[str, Any], wanted: str, gpus: list[Gpu]) -> str:
    """Return the UUID of the wanted GPU, or of the first that the kit is for; "" if nvidia-smi lists none.

    CUDA counts the fastest GPU first and nvidia-smi does not, but both know UUIDs.
    """
    offered = [gpu for gpu in gpus if wanted in ("", gpu.number, gpu.uuid)]
    if wanted and not offered:
        listed = ", ".join(gpu.number for gpu in gpus) or "no GPU"
        fail(2, f"nvidia-smi does not list a GPU {wanted!r}, but {listed}; set GPU to one of its indices or UUIDs")
    fitting = [gpu.uuid for gpu in offered if gpu.sm == kit["sm"]]
    if offered and not fitting:
        found = ", ".join(sorted({gpu.sm for gpu in offered}))
        fail(3, f"Expected a GPU of compute capability {kit['sm']}, got {found}; {new_kit(kit)}")
    return fitting[0] if fitting else ""


def local_gpus() -> list[Gpu]:
    """Return the GPUs of this machine; empty if nvidia-smi does not list them."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [Gpu(*row) for row in re.findall(r"^(\d+), ([\w-]+), (\d+\.\d+)$", output, re.MULTILINE)]


def new_kit(kit: dict[str, Any]) -> str:
    """Return the remedy for a GPU that the kit is not for."""
    return f"make a kit for this GPU: msal-deploy package BUNDLE build-kit --gpu NAME (this kit is for {kit['target']})"


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``4x512x512x3``."""
    extents = tuple(int(part) if part.isdecimal() else 0 for part in text.split("x"))
    if len(extents) != 4 or extents[3] != 3 or min(extents) < 1 or extents[1] % 32 or extents[2] % 32:
        fail(2, f"{text!r} is not a shape; give NxHxWx3 with H and W in multiples of 32, such as 4x512x512x3")
    return extents


def check_shapes(shapes: list[tuple[int, ...]], golden: tuple[int, ...]) -> None:
    """Exit unless MIN ≤ OPT ≤ MAX and the golden tiles are between MIN and MAX."""
    low, opt, high = shapes
    if not all(a <= b <= c for a, b, c in zip(low, opt, high)):  # noqa: B905 (Python 3.9)
        fail(2, "MIN, OPT and MAX are not in increasing order; increase OPT or MAX")
    if not all(a <= b <= c for a, b, c in zip(low, golden, high)):  # noqa: B905
        tiles = "x".join(map(str, golden))
        fail(2, f"The golden tiles ({tiles}) are not between MIN and MAX; widen MIN and MAX")


def write_sidecar(kit: dict[str, Any], arguments: argparse.Namespace, shapes: list[tuple[int, ...]]) -> Mismatch | None:
    """Write the metadata of a plan; return how the plan differs from the request, or None if it does not."""
    graph = kit["graphs"][arguments.precision]
    layers = [Layer(*layer) for layer in graph["layers"]]
    log = arguments.log.read_text(encoding="utf-8", errors="replace")
    if find_in_log(log, "Compute Capability") != kit["sm"]:
        device = find_in_log(log, "Selected Device")
        fail(3, f"The plan was built on {device}, not on a GPU of compute capability {kit['sm']}; {new_kit(kit)}")
    actual, version = read_engine(arguments.layers), find_in_log(log, "TensorRT version")
    if read_share(layers, actual.precisions) < MIN_READ:
        if parse_version(version) < (10,):
            fail(1, f"The precision of the plan cannot be read from {arguments.layers}; use another TensorRT 8 release")
        # From TensorRT 10 on, build.sh builds strongly typed networks: the graph's types bind the builder.
        actual = LayerPrecisions("network", {layer.name: layer.precision for layer in layers})
    shares = precision_shares(layers, actual.precisions)
    options = {**kit["options"], "workspace_mib": arguments.workspace, "allow_wider": arguments.allow_wider}
    content = {
        "backend": "tensorrt",
        "backend_version": version,
        "gpu": kit["target"],
        "sm": [kit["sm"]],
        "graph": graph["file"],
        "graph_sha256": graph["sha256"],
        "requested": arguments.precision,
        "realised": {
            "read_from": actual.source,
            "shares": {name: share._asdict() for name, share in shares.items()},
            "reformats": actual.reformats,
        },
        "profile": dict(zip(("minimum", "optimum", "maximum"), [shape[:3] for shape in shapes])),  # noqa: B905
        "plan_sha256": sha256(arguments.plan),
        "bytes": arguments.plan.stat().st_size,
        "options": options,
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 (Python 3.9)
        "format_version": kit["format_version"],
    }
    Path(f"{arguments.plan}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    reformats = "" if actual.reformats is None else f"; {actual.reformats} reformat layers"
    print(f"{arguments.precision}: {format_flops(shares)} (share of FLOPs, read from the {actual.source}){reformats}")
    return find_mismatch(arguments.precision, layers, actual.precisions, arguments.allow_wider)


def add(bundle: Path) -> list[str]:
    """Copy the plans into a bundle, list them in its manifest, and return their names."""
    plans = sorted((HERE / "plans").glob("*.plan"))
    try:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        entries = manifest["artifacts"]
        for plan in plans:
            sidecar = Path(f"{plan}.json")
            about = json.loads(sidecar.read_text(encoding="utf-8"))
            if entries.get(about["graph"], {}).get("sha256") != about["graph_sha256"]:
                fail(2, f"{plan.name} was built from another {about['graph']} than that of {bundle}")
            for file, source in ((plan, about["graph"]), (sidecar, plan.name)):
                put(bundle / file.name, file.read_bytes())
                entries[file.name] = {"sha256": sha256(file), "made_from": [source]}
        put(bundle / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    except (OSError, ValueError, LookupError, AttributeError) as error:
        fail(2, f"The plans cannot be added to {bundle} ({error}); name the bundle that this kit was made from")
    return [plan.name for plan in plans]


def put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and not through a link."""
    temporary = path.with_name(f".{path.name}-{os.urandom(8).hex()}")
    with temporary.open("xb") as stream:
        stream.write(content)
    temporary.replace(path)


def find_in_log(log: str, key: str) -> str:
    """Return the value of a key in trtexec's log, such as ``6.1`` in ``[I] Compute Capability: 6.1``."""
    match = re.search(rf"{key}: (.+)", log)
    if not match:
        fail(1, f"trtexec's log has no {key!r}; use a version of TensorRT that this kit supports")
    return match[1].strip()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_engine(path: Path) -> LayerPrecisions:
    """Read the layers that trtexec --exportLayerInfo has written."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        text = ""
    return read_inspector_json(text) or LayerPrecisions("inspector", {}, 0)


def find_mismatch(requested: str, graph: list[Layer], precisions: dict[str, str], allow_wider: bool) -> Mismatch | None:
    """Return how the plan differs from the request, or None if it does not."""
    return (
        check_requested(requested, graph, precisions)
        or check_layers(graph, precisions, wider=False)
        or (None if allow_wider else check_layers(graph, precisions, wider=True))
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    names = ("check", "sidecar", "add", "gpu", "tolerance")
    check_parser, sidecar, adder, gpu, tolerance = (verbs.add_parser(name) for name in names)
    adder.add_argument("bundle", type=Path)
    gpu.add_argument("wanted", nargs="?", default="")
    tolerance.add_argument("precision")
    check_parser.add_argument("line")
    sidecar.add_argument("precision")
    for name in ("plan", "layers", "log"):
        sidecar.add_argument(name, type=Path)
    sidecar.add_argument("--workspace", type=int)
    sidecar.add_argument("--allow-wider", action="store_true")
    for verb in (check_parser, sidecar):
        verb.add_argument("shapes", nargs=3)
    arguments = parser.parse_args()
    if arguments.verb == "add":
        print("\n".join(add(arguments.bundle)) or "There are no plans yet; run build.sh first")
        return
    kit = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    if arguments.verb == "gpu":
        print(choose_gpu(kit, arguments.wanted, local_gpus()))
        return
    if arguments.verb == "tolerance":
        print(kit["graphs"][arguments.precision]["tolerance"])
        return
    shapes = [parse_shape(text) for text in arguments.shapes]
    if arguments.verb == "check":
        print(check(kit, arguments.line, shapes))
    elif mismatch := write_sidecar(kit, arguments, shapes):
        print(f"FAILED: the plan {mismatch.cause}")
        sys.exit(1)


if __name__ == "__main__":
    main()
