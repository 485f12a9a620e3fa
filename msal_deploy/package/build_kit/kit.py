"""What build.sh asks of Python: is this the right place, and is the plan what was asked for? Python 3.9 alone.

    python3 kit.py check "FIRST LINE OF TRTEXEC" MIN OPT MAX     prints TensorRT's version
    python3 kit.py sidecar int8 PLAN LAYERS LOG MIN OPT MAX      writes PLAN.json and prints what the plan computes in

PLAN.json is the sidecar that msal-deploy reads before it loads a plan. Shapes are as trtexec takes them: 4x512x512x3.
Exit code 1 where the plan is not what was asked for, 2 for wrong usage, 3 where this machine is not the right one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
MIN_SEEN = 0.95  # of the FLOPs; an engine that names fewer of its layers is not understood
MIN_REQUESTED = 0.5  # of the FLOPs, for a plan to be called by a precision
WIDTH = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}
# What the inspector writes for a type: "Half", or in TensorRT 8 "Two wide channel vectorized row major FP16 format".
TYPES = {r"\bint8": "int8", r"\bbf16|bfloat": "bf16", r"fp16|half": "fp16", r"fp32|float": "fp32"}
NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
MULTIPLIES = re.compile(r"conv|corr|gemm|matrix|matmul", re.IGNORECASE)
FUSION = re.compile(r"__myl_\w*(Conv|Corr|Deco|Gemm|MatM)")  # named by what it fuses, four letters each
REFORMATS = re.compile(r"^(Reformat|__myl_(Cast|Conc|Move|Repl|Resh|Slic|Tran)+_)")


def fail(code: int, sentence: str) -> NoReturn:
    """Print one sentence and end with `code`."""
    print(f"Error: {sentence}", file=sys.stderr)
    sys.exit(code)


def check(kit: dict[str, Any], line: str, shapes: list[tuple[int, ...]]) -> str:
    """Return TensorRT's version, such as ``8.6.1``, after making sure that all is as the kit needs it."""
    found = re.search(r"\[TensorRT v(\d+)\]", line)
    if not found:
        fail(3, f"trtexec does not start ({' '.join(line.split())[:200] or 'it says nothing'}); is TensorRT installed?")
    version = version_of(int(found[1]))
    first, last = numbers(kit["first"]), numbers(kit["last"] or "99")
    if not first <= numbers(version) or numbers(version)[: len(last)] > last:
        until = f" to {kit['last']}" if kit["last"] else " and later"
        fail(3, f"TensorRT {version} is here, and {kit['gpu']} is served by {kit['first']}{until}; use the Dockerfile")
    here = capabilities()
    if here and kit["sm"] not in here:
        fail(
            3, f"The GPU here has compute capability {', '.join(here)}, and the kit is for {kit['sm']}; {another(kit)}"
        )
    check_shapes(shapes, tuple(kit["golden"]))
    return version


def version_of(number: int) -> str:
    """Return 8601 as 8.6.1, and 101600 as 10.16.0: from TensorRT 10 on there are two digits a part."""
    parts = (number // 1000, number // 100 % 10, number % 100)
    if number >= 10000:
        parts = (number // 10000, number // 100 % 100, number % 100)
    return ".".join(map(str, parts))


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers, to compare with."""
    return tuple(int(part) for part in version.split("."))


def capabilities() -> list[str]:
    """Return the compute capabilities of the GPUs here, none where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(re.findall(r"^\d+\.\d+$", said, re.MULTILINE)))


def another(kit: dict[str, Any]) -> str:
    """Return what to do on another GPU than the kit is for."""
    return f"make a kit for it: msal-deploy package BUNDLE build-kit --gpu NAME (this one was made for {kit['target']})"


def shape(text: str) -> tuple[int, ...]:
    """Read ``4x512x512x3``."""
    extents = tuple(int(part) if part.isdecimal() else 0 for part in text.split("x"))
    if len(extents) != 4 or extents[3] != 3 or min(extents) < 1 or extents[1] % 32 or extents[2] % 32:
        fail(2, f"{text!r} is no shape; give images x height x width x 3, the sizes multiples of 32, as in 4x512x512x3")
    return extents


def check_shapes(shapes: list[tuple[int, ...]], golden: tuple[int, ...]) -> None:
    """End unless MIN ≤ OPT ≤ MAX, and the golden tiles fit in."""
    low, best, high = shapes
    if not all(a <= b <= c for a, b, c in zip(low, best, high)):  # noqa: B905 (Python 3.9)
        fail(2, "Each extent of MIN must be at most OPT's, and OPT's at most MAX's")
    if not all(a <= b <= c for a, b, c in zip(low, golden, high)):  # noqa: B905
        tiles = "x".join(map(str, golden))
        fail(2, f"The shapes from MIN to MAX must take in the golden tiles' {tiles}: they are what proves the plan")


def write_sidecar(kit: dict[str, Any], given: argparse.Namespace, shapes: list[tuple[int, ...]]) -> str:
    """Write the sidecar of a plan; return why the plan must not be used, empty where it may."""
    graph = kit["graphs"][given.precision]
    log = given.log.read_text(encoding="utf-8", errors="replace")
    if said(log, "Compute Capability") != kit["sm"]:
        fail(3, f"The plan was built on {said(log, 'Selected Device')}, which is not {kit['sm']}; {another(kit)}")
    reformats: int | None
    precisions, reformats = read_layers(given.layers)
    source, version = "inspector", said(log, "TensorRT version")
    if seen(graph["layers"], precisions) < MIN_SEEN:
        if numbers(version) < (10,):
            fail(1, f"What the plan computes in cannot be read from {given.layers}, so it was not kept")
        # Networks are strongly typed from 10 on as they are built here: the graph's types bind the builder.
        source, precisions, reformats = "network", {name: kind for name, kind, _ in graph["layers"]}, None
    shares = share(graph["layers"], precisions)
    options = {**kit["options"], "workspace_mib": given.workspace, "allow_wider": given.allow_wider}
    content = {
        "backend": "tensorrt",
        "backend_version": version,
        "gpu": kit["target"],
        "sm": [kit["sm"]],
        "graph": graph["file"],
        "graph_sha256": graph["sha256"],
        "requested": given.precision,
        "realised": {"read_from": source, "shares": shares, "reformats": reformats},
        "profile": dict(zip(("minimum", "optimum", "maximum"), [one[:3] for one in shapes])),  # noqa: B905
        "plan_sha256": sha256(given.plan),
        "bytes": given.plan.stat().st_size,
        "options": options,
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 (Python 3.9)
        "format_version": kit["format_version"],
    }
    Path(f"{given.plan}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    more = "" if reformats is None else f"; {reformats} layers only change layout or type"
    print(f"{given.precision}: {told(shares)} of the FLOPs, says the {source}{more}")
    return fault(given.precision, graph["layers"], precisions, given.allow_wider)


def said(log: str, what: str) -> str:
    """Return what trtexec's log says after ``what:``, as in ``[I] Compute Capability: 6.1``."""
    found = re.search(rf"{what}: (.+)", log)
    if not found:
        fail(1, f"trtexec's log names no {what}; it is not one that this kit understands")
    return found[1].strip()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def read_layers(path: Path) -> tuple[dict[str, str], int]:
    """Read trtexec --exportLayerInfo: node -> precision of the layer that multiplies for it, and how many reformats."""
    try:
        layers = [layer for layer in json.loads(path.read_text(encoding="utf-8"))["Layers"] if isinstance(layer, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        layers = []
    owners: dict[str, tuple[int, str]] = {}
    for layer in layers:
        for node in nodes(layer):
            # Several layers may name a node: one adds its bias, another one changes its layout.
            if rank(layer) > owners.get(node, (0, ""))[0]:
                owners[node] = (rank(layer), precision(layer))
    reformats = sum(any(REFORMATS.match(str(layer.get(key, ""))) for key in ("LayerType", "Name")) for layer in layers)
    return {node: found for node, (_, found) in owners.items()}, reformats


def rank(layer: dict[str, Any]) -> int:
    """Return 2 for a layer that multiplies, 1 for a fusion in which something does, 0 for the others."""
    if MULTIPLIES.search(f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"):
        return 2
    return 1 if FUSION.match(str(layer.get("Name", ""))) or MULTIPLIES.search(str(layer.get("TacticName", ""))) else 0


def nodes(layer: dict[str, Any]) -> set[str]:
    """Return the ONNX nodes of an engine's layer: named in its metadata, or joined by + in its name."""
    return {*NODE.findall(str(layer.get("Metadata", ""))), *re.split(r" \+ | \|\| ", str(layer.get("Name", "")))}


def precision(layer: dict[str, Any]) -> str:
    """Return the type of a layer's first input that has one of these types, or else of its weights."""
    inputs = [str(tensor.get("Format/Datatype", "")) for tensor in layer.get("Inputs") or ()]
    for text in (*inputs, str((layer.get("Weights") or {}).get("Type", ""))):
        for pattern, name in TYPES.items():
            if re.search(pattern, text, re.IGNORECASE):
                return name
    return "unknown"


def seen(layers: list[tuple[str, str, int]], precisions: dict[str, str]) -> float:
    """Return the share of the FLOPs whose precision is known."""
    known = sum(macs for name, _, macs in layers if precisions.get(name, "unknown") != "unknown")
    return known / sum(macs for *_, macs in layers)


def share(layers: list[tuple[str, str, int]], precisions: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return precision -> layers, their share of all, and their share of the FLOPs."""
    total = sum(macs for *_, macs in layers)
    groups: dict[str, list[int]] = {}
    for name, _, macs in layers:
        groups.setdefault(precisions.get(name, "unknown"), []).append(macs)
    return {
        name: {"layers": len(of), "of_layers": len(of) / len(layers), "of_flops": sum(of) / total}
        for name, of in sorted(groups.items())
    }


def told(shares: dict[str, dict[str, float]]) -> str:
    """Return the shares in words, the largest first."""
    largest = sorted(shares.items(), key=lambda item: -item[1]["of_flops"])
    return ", ".join(f"{found['of_flops']:.1%} in {name}" for name, found in largest)


def fault(asked: str, layers: list[tuple[str, str, int]], precisions: dict[str, str], allow_wider: bool) -> str:
    """Return how the plan is not what was asked for, empty where it is."""
    shares = share(layers, precisions)
    if shares.get(asked, {"of_flops": 0})["of_flops"] < MIN_REQUESTED:
        return f"was asked for in {asked} and computes its FLOPs {told(shares)}"
    wrong = [
        f"{name} in {precisions[name]} and not {wanted}"
        for name, wanted, _ in layers
        if precisions.get(name) in WIDTH
        and WIDTH[precisions[name]] != WIDTH[wanted]
        and not (allow_wider and WIDTH[precisions[name]] > WIDTH[wanted])
    ]
    more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
    return f"computes layers otherwise than its graph says: {', '.join(wrong[:2])}{more}" if wrong else ""


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    checks, sidecar = verbs.add_parser("check"), verbs.add_parser("sidecar")
    checks.add_argument("line")
    sidecar.add_argument("precision")
    for name in ("plan", "layers", "log"):
        sidecar.add_argument(name, type=Path)
    sidecar.add_argument("--workspace", type=int)
    sidecar.add_argument("--allow-wider", action="store_true")
    for verb in (checks, sidecar):
        verb.add_argument("shapes", nargs=3)
    given = parser.parse_args()
    kit, shapes = json.loads((HERE / "kit.json").read_text(encoding="utf-8")), [shape(text) for text in given.shapes]
    if given.verb == "check":
        print(check(kit, given.line, shapes))
    elif wrong := write_sidecar(kit, given, shapes):
        print(f"FAILED: the plan {wrong}")
        sys.exit(1)


if __name__ == "__main__":
    main()
