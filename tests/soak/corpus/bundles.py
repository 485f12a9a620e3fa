"""Bundles: damaged, and damaged with a manifest that agrees."""

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from good import PLAN, REFERENCE, replace
from stage import EITHER, REFUSED, Case

from corpus.damage import Make, both, copy, damages, oddities, write
from corpus.labels import Payload


def sign(folder: Path, *names: str) -> None:
    """Write the hashes of changed files into the manifest, as an attacker would."""
    import hashlib

    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in names:
        file = folder / name
        if file.is_file() and not (file.is_symlink() and str(file.resolve()).startswith("/dev")):
            manifest["artifacts"][name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    replace(path, json.dumps(manifest).encode())


USES = {
    "model.fp32.onnx": (
        ("bench", "bundle", "-e", "onnxruntime:fp32", "--size", "64", "--seconds", "0.01", "--rounds", "1"),
        ("bench", "bundle", "-e", "openvino:fp32", "--size", "64", "--seconds", "0.01", "--rounds", "1"),
        ("package", "bundle", "cpp", "--out", "out"),
        ("package", "bundle", "triton", "--backend", "onnxruntime", "--out", "out"),
        ("package", "bundle", "build-kit", "--gpu", "rtx-3090", "--precision", "fp32", "--out", "out"),
        ("doctor", "--bundle", "bundle", "--gpu", "rtx-3090"),
    ),
    "model.int8.onnx": (
        ("bench", "bundle", "-e", "onnxruntime:int8", "--size", "64", "--seconds", "0.01", "--rounds", "1"),
        ("package", "bundle", "cpp", "--precision", "int8", "--out", "out"),
    ),
    "golden/image.npy": (("package", "bundle", "cpp", "--out", "out"),),
    "golden/probability.npy": (("package", "bundle", "cpp", "--out", "out"),),
    "calibration.json": (
        ("validate", "bundle", "--data", "../good/data", "--patch", "256", *REFERENCE, "-e", "openvino:int8"),
    ),
    PLAN: (("package", "bundle", "cpp", "--gpu", "rtx-3090", "--out", "out"),),
    f"{PLAN}.json": (("package", "bundle", "cpp", "--gpu", "rtx-3090", "--out", "out"),),
}


def bundles(source: Path) -> Iterator[Case]:
    for name, commands in USES.items():
        content = (source / "bundle" / name).read_bytes()
        for signed in (False, True):
            for title, damaged in damages(content, name, 2).items():
                for command in commands if title in ("text", "cut at 50%", "empty") else commands[:1]:
                    make = both(copy("bundle"), write(f"bundle/{name}", damaged), signer(name, signed))
                    flipped = title.startswith(("flipped", "cut", "noise", "zeros")) and signed
                    exits = frozenset({0, 1, 2}) if flipped else frozenset({1, 2}) if name == PLAN else REFUSED
                    if command[0] == "doctor" or (name == PLAN and signed):
                        exits = frozenset({0, 1, 2, 3})  # an opaque plan with the right hash is the signer's
                    if command[0] == "package" and "triton" in command and name != "model.fp32.onnx":
                        continue
                    kind = "bundles, signed" if signed else "bundles"
                    yield Case(kind, f"{name} {title}", command, make, exits)
            for title, odd in oddities(f"bundle/{name}").items():
                make = both(copy("bundle"), odd, signer(name, signed))
                exits = EITHER if name in (PLAN, f"{PLAN}.json") and title == "missing" else REFUSED
                if not signed:
                    yield Case("bundles", f"{name} is {title}", commands[-1 if len(commands) < 3 else 2], make, exits)
    yield from secrets()
    yield from golden_shapes()
    yield from manifests(source)


def signer(name: str, signed: bool) -> Make:
    return (lambda folder: sign(folder / "bundle", name)) if signed else (lambda folder: None)


def secrets() -> Iterator[Case]:
    """Links that would carry a user's file into a package."""

    def secret(name: str, signed: bool) -> Make:
        def make(folder: Path) -> None:
            (folder / "secret").write_text("the user's own")
            (folder / "bundle" / name).unlink()
            (folder / "bundle" / name).symlink_to("../secret")
            if signed:
                sign(folder / "bundle", name)

        return make

    for name, signed in itertools.product((PLAN, "model.fp32.onnx", "golden/image.npy"), (False, True)):
        command = USES[name][0] if name == PLAN else ("package", "bundle", "cpp", "--out", "out")
        exits = EITHER if name == PLAN and signed else REFUSED
        make = both(copy("bundle"), secret(name, signed))
        yield Case("bundles, signed" if signed else "bundles", f"{name} links to a secret", command, make, exits)


def golden_shapes() -> Iterator[Case]:
    """Golden tensors that NumPy reads, of the wrong kind."""

    def npy(array: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        return stream.getvalue()

    arrays = {
        "no images": np.zeros((0, 256, 256, 3), np.uint8),
        "33 px": np.zeros((1, 33, 33, 3), np.uint8),
        "4 channels": np.zeros((1, 64, 64, 4), np.uint8),
        "float": np.zeros((1, 64, 64, 3), np.float32),
        "3 dimensions": np.zeros((64, 64, 3), np.uint8),
        "pickled objects": np.array([Payload()], dtype=object),
        "text": np.array(["image"]),
        "Fortran order": np.asfortranarray(np.zeros((2, 64, 64, 3), np.uint8)),
    }
    for (title, array), name in itertools.product(arrays.items(), ("golden/image.npy", "golden/probability.npy")):
        for integration in ("cpp", "triton"):
            make = both(copy("bundle"), write(f"bundle/{name}", npy(array)), signer(name, True))
            command = ("package", "bundle", integration, "--out", "out")
            yield Case("bundles, signed", f"{name}: {title} ({integration})", command, make)


HOSTILE_TEXT = (
    "image$(touch PWNED)",
    "`touch PWNED`",
    "image; touch PWNED",
    'image" && touch PWNED && "',
    "image' ; touch PWNED ; '",
    "image\ntouch PWNED",
    "{{ 7 * 7 }}",
    "../../image",
    "",
    "a" * 5000,
    "im\u202eage",
)


def manifests(source: Path) -> Iterator[Case]:
    """Damaged manifests, and valid JSON with values that no exporter writes."""
    content = (source / "bundle" / "manifest.json").read_bytes()
    bench = USES["model.fp32.onnx"][0]
    kit = USES["model.fp32.onnx"][4]
    raw = {
        "not UTF-8": b'{"a": "\xff"}',
        "UTF-16": content.decode().encode("utf-16"),
        "nested": b"[" * 50_000,
        "nested in a field": content.replace(b'"checks": {}', b'"checks": ' + b"[" * 50_000 + b"]" * 50_000),
        "twice": content + content,
        "a list": b"[]",
        "null": b"null",
        "a lone surrogate": content.replace(b'"tiny"', b'"\\ud800"'),
        "a number of 5,000 digits": content.replace(b'"format_version": 1', b'"format_version": ' + b"9" * 5000),
        "1e999": content.replace(b"0.485", b"1e999"),
        "NaN": content.replace(b"0.485", b"NaN"),
    }
    may = frozenset({0, 2})
    for title, damaged in {**raw, **damages(content, "manifest", 4)}.items():
        exits = may if title.startswith(("flipped", "a lone", "nested in")) else REFUSED
        make = both(copy("bundle"), write("bundle/manifest.json", damaged))
        yield Case("manifests", title, bench, make, exits)
        if title in raw:
            yield Case("manifests", title, ("package", "bundle", "cpp", "--out", "out"), make, exits)
    for title, odd in oddities("bundle/manifest.json").items():
        yield Case("manifests", f"is {title}", bench, both(copy("bundle"), odd))
    values: list[tuple[tuple[str, ...], object]] = [
        *((("spec", "image", "name"), text) for text in HOSTILE_TEXT),
        *((("spec", "probability", "name"), text) for text in HOSTILE_TEXT[:5]),
        *((("spec", "image", "dtype"), value) for value in ("float32", "uint7", 7)),
        *((("spec", "image", "axes"), value) for value in ([], [1, 2], "nhwc", None)),
        *((("spec", "mean"), value) for value in ([], [0.1], [0.1] * 4, "grey", [None] * 3)),
        *((("spec", "std"), value) for value in ([0, 0, 0], [-1, 1, 1], [])),
        *((("spec", "threshold"), value) for value in (-1, 2, "half", None)),
        *((("spec", "microns_per_pixel"), value) for value in (0, -1, "x")),
        *((("format_version",), value) for value in (0, 2, -1, "1", None, 1.5)),
        *((("recipe",), value) for value in (None, [], {"network": {"model": "?"}}, "demo")),
        *((("licence",), value) for value in (None, 7, [])),
        *((("versions",), value) for value in (None, [], {"torch": 2})),
        *((("artifacts",), value) for value in (None, [], {}, {"../x": {"sha256": "0" * 64, "made_from": []}})),
        *((("artifacts", "model.fp32.onnx"), value) for value in (None, {}, {"sha256": 7, "made_from": []})),
        *((("artifacts", "model.fp32.onnx", "sha256"), value) for value in ("", "0" * 64, "G" * 64)),
    ]
    for keys, value in values:
        make = both(copy("bundle"), field(keys, value))
        kind, title = "manifests", f"{'.'.join(keys)} = {str(value)[:24]!r}"
        names = keys[-1] == "name"
        yield Case(
            kind, title, kit if names else bench, make, frozenset({2}) if names or keys[0] == "artifacts" else may
        )
    for outside in ("../secret", "/etc/passwd", "golden/../../secret", "model.fp32.onnx\0", "a\nb"):
        make = both(copy("bundle"), write("secret", b"own"), moved("model.fp32.onnx", outside))
        yield Case("manifests", f"the artifact {outside!r}", bench, make)


def field(keys: tuple[str, ...], value: object) -> Make:
    def make(folder: Path) -> None:
        path = folder / "bundle" / "manifest.json"
        manifest = json.loads(path.read_bytes())
        inner = manifest
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        replace(path, json.dumps(manifest).encode())

    return make


def moved(name: str, target: str) -> Make:
    def make(folder: Path) -> None:
        path = folder / "bundle" / "manifest.json"
        manifest = json.loads(path.read_bytes())
        manifest["artifacts"][target] = manifest["artifacts"].pop(name)
        replace(path, json.dumps(manifest).encode())

    return make
