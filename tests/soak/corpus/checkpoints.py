"""Checkpoints: safetensors and pickles."""

import io
import itertools
import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from stage import CANARY, Case

from corpus.archives import zip_of
from corpus.damage import both, copy, later, oddities, write
from corpus.labels import Payload


def safetensors(source: Path) -> Iterator[Case]:
    path = source / "weights.safetensors"
    with path.open("rb") as stream:
        size = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(size))
    name = next(key for key in header if key != "__metadata__")

    def changed(**changes: object) -> Callable[[], bytes]:
        new = {**header, **changes}
        text = json.dumps({key: value for key, value in new.items() if value is not None}).encode()
        return lambda: struct.pack("<Q", len(text)) + text + path.read_bytes()[8 + size :]

    def entry(**changes: object) -> Callable[[], bytes]:
        return changed(**{name: {**header[name], **changes}})

    meta = header["__metadata__"]
    bad = {
        "a header of 2**63 bytes": lambda: struct.pack("<Q", 2**63) + path.read_bytes()[8:],
        "a header longer than the file": lambda: struct.pack("<Q", 2**40) + path.read_bytes()[8:],
        "a header of 0 bytes": lambda: struct.pack("<Q", 0) + path.read_bytes()[8:],
        "a header that is no JSON": struct.pack("<Q", 4) + b"oops",
        "a nested header": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "negative offsets": entry(data_offsets=[-1, 4]),
        "offsets beyond the file": entry(data_offsets=[0, 2**40]),
        "overlapping offsets": entry(data_offsets=[4, 8]),
        "an unknown type": entry(dtype="F7"),
        "a huge shape": entry(shape=[2**62, 2]),
        "a negative shape": entry(shape=[-1]),
        "a shape of words": entry(shape=["many"]),
        "no metadata": changed(__metadata__=None),
        "metadata that is no text": changed(__metadata__={"recipe": 7}),
        "a recipe that is no JSON": changed(__metadata__={**meta, "recipe": "{"}),
        "an empty recipe": changed(__metadata__={**meta, "recipe": ""}),
        "a recipe of another network": changed(__metadata__={**meta, "recipe": '{"network": {"model": "u-net"}}'}),
        "an unknown network": changed(__metadata__={**meta, "recipe": '{"network": {"model": "$(touch PWNED)"}}'}),
        "a nested recipe": changed(__metadata__={**meta, "recipe": "[" * 50_000}),
        "notes that are no JSON": changed(__metadata__={**meta, "notes": "{"}),
        "one tensor less": changed(**{name: None}),
        "one tensor renamed": changed(**{name: None, "other": header[name]}),
    }
    for title, content in {**bad, **later(path, "safetensors")}.items():
        yield Case("safetensors", title, ("export", "w.safetensors", "--out", "b"), write("w.safetensors", content))
    for title in ("negative offsets", "a nested header", "one tensor less", "an unknown type"):
        command = ("train", "--data", "../good/data", "--recipe", "demo", "--from", "w.safetensors", "--out", "r")
        yield Case("safetensors", f"{title}, to fine-tune", command, write("w.safetensors", bad[title]))
    for title, odd in oddities("w.safetensors").items():
        yield Case("safetensors", f"is {title}", ("export", "w.safetensors", "--out", "b"), odd)


def pickles(source: Path) -> Iterator[Case]:
    import torch

    def saved(value: object, **options: object) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    weights = torch.load(source / "weights.pt", weights_only=True)
    few = {key: value[:2].clone() for key, value in itertools.islice(weights.items(), 3)}
    evil = {
        "a payload": saved(Payload()),
        "a payload, old format": saved(Payload(), _use_new_zipfile_serialization=False),
        "a payload among weights": saved({"state_dict": few, "more": Payload()}),
        "a payload as a key": saved({Key(): torch.zeros(1)}),
        "a payload, plain": pickle.dumps(Payload()),
        "a payload, protocol 0": pickle.dumps(Payload(), 0),
        "a payload of opcodes": b"cos\nsystem\n(S'touch PWNED'\ntR.",
        "a payload by eval": b'c__builtin__\neval\n(S\'open("PWNED", "w")\'\ntR.',
        "a payload in a zip": zip_of({"archive/data.pkl": pickle.dumps(Payload()), "archive/version": b"3\n"}),
    }
    empty = {
        "None": saved(None),
        "a number": saved(7),
        "a list": saved([torch.zeros(3)]),
        "a tensor": saved(torch.zeros(3)),
        "nothing": saved({}),
        "an empty state_dict": saved({"state_dict": {}}),
        "a state_dict of text": saved({"state_dict": "weights"}),
        "numbers": saved({"a": 1, "b": 2.5}),
        "few weights": saved(few),
        "another network's": saved({f"other.{key}": value for key, value in few.items()}),
        "other shapes": saved({key: torch.zeros(1) for key in weights}),
        "other types": saved({key: torch.zeros(value.shape, dtype=torch.complex64) for key, value in few.items()}),
        "sparse": saved({"a": torch.eye(3).to_sparse()}),
        "recursive": recursive(saved),
        "deep": saved(deep()),
        "a scripted module": scripted(),
        "NumPy arrays": saved({"a": np.zeros(3)}),
        "a JSON": b'{"state_dict": {}}',
    }
    suffixes = ("pt", "pth", "ckpt", "bin", "pkl", "pth.tar", "")
    cases = {**evil, **empty}
    for index, (title, content) in enumerate(cases.items()):
        for suffix in suffixes if title in evil else (suffixes[index % 7], "pth"):
            name = f"w.{suffix}".rstrip(".")
            command = ("export", name, "--recipe", "demo", "--out", "b")
            yield Case("pickles", f"{title} as {name}", command, write(name, content))
    for title, content in later(source / "weights.pt", "pickle").items():
        yield Case("pickles", title, ("export", "w.pth", "--recipe", "demo", "--out", "b"), write("w.pth", content))
    for title, content in evil.items():
        command = ("train", "--data", "../good/data", "--recipe", "demo", "--encoder", "w.pth", "--out", "r")
        yield Case("pickles", f"{title} as an encoder", command, write("w.pth", content))
        command = ("train", "--data", "../good/data", "--recipe", "demo", "--out", "run", "--resume")
        yield Case("pickles", f"{title} to resume", command, both(copy("run"), write("run/last.pt", content)))
    for title, content in {**later(source / "run" / "last.pt", "last"), **empty}.items():
        command = ("train", "--data", "../good/data", "--out", "run", "--resume", "--epochs", "3")
        yield Case("pickles", f"last.pt: {title}", command, both(copy("run"), write("run/last.pt", content)))


class Key(str):
    """A key that runs code if it is unpickled."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {CANARY}",)


def recursive(saved: Callable[..., bytes]) -> bytes:
    content: dict[str, object] = {}
    content["state_dict"] = content
    return saved(content)


def deep() -> object:
    content: object = 1
    for _ in range(400):
        content = {"state_dict": content}
    return content


def scripted() -> bytes:
    import torch

    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), stream)
    return stream.getvalue()
