"""Find the weights of a network among the tensors of a file, under whatever names a training program gave them.

``DataParallel`` puts ``module.`` before each name, ``torch.compile`` ``_orig_mod.``, Lightning the name of the user's
attribute, and many programs put the state dict under ``state_dict``, ``model_state_dict`` or ``model`` beside the
optimizer's. None of these is listed here: nested mappings are flattened, with dots between the keys, and a **copy** of
the weights is a prefix below which every parameter of the network is found with its shape. The file must hold exactly
one copy, or one that is an average (EMA, SWA) beside those that it averages.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from msal_deploy.errors import BadInput

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
AVERAGES = {"ema", "swa", "average", "averaged", "avg", "shadow"}
# Entries that a forward pass does not need: what profilers and averages count, losses, scores, optimizers.
BOOKKEEPING = {"total_ops", "total_params", "n_averaged", "num_updates", "num_batches_tracked"}
TRAINING_ONLY = {
    "loss", "losses", "criterion", "criterions", "metric", "metrics", "dice", "iou", "jaccard", "accuracy", "acc", "f1",
    "auroc", "confmat", "optimizer", "optimizers", "optim", "scheduler", "schedulers", "scaler", "rng", "callbacks",
}  # fmt: skip
COUNTER = "num_batches_tracked"  # of a batch norm; files from before torch 0.4.1 do not have it
MAX_DEPTH, MAX_PARTS = 8, 32

Shapes = Mapping[str, torch.Size]


class Fitted(msgspec.Struct, frozen=True):
    """The weights of a network.

    Attributes:
        weights: Parameter name -> tensor, with the names and shapes of the network.
        remarks: What was taken and what was left out, in sentences for the user; none if the file holds just these.
    """

    weights: dict[str, Tensor]
    remarks: tuple[str, ...] = ()


class _Entry(msgspec.Struct, frozen=True):
    tensor: Tensor
    holder: str  # the dotted path of the mapping that holds it


class _Copy(msgspec.Struct, frozen=True):
    """The tensors below `prefix` that have names of the network: name -> key in the file."""

    prefix: str
    keys: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.prefix}." if self.prefix else "no prefix"


def fit(content: Any, network: Mapping[str, Tensor], title: str, unused: str = "") -> Fitted:
    """Return the weights of a network among the content of a file.

    >>> weights = {"epoch": 7, "model": {"module.a": torch.ones(2), "total_ops": torch.zeros(1)}}
    >>> fitted = fit(weights, {"a": torch.zeros(2)}, "file.pt")
    >>> fitted.weights, fitted.remarks
    ({'a': tensor([1., 1.])}, ('file.pt: took model.module.*; left out 1 other tensor (model.total_ops)',))

    Args:
        content: Tensors in nested mappings.
        network: The network's own state dict, for its names, shapes and types; it may be on torch's ``meta`` device.
        title: The file, for messages.
        unused: A module that the file may hold beside these weights, such as the classifier of an encoder.

    Raises:
        BadInput: No tensors, or several sets of them, fit the network; the message lists what was found and tried.
    """
    entries = _flatten(content, title)
    shapes = {name: tensor.shape for name, tensor in network.items()}
    copies = _copies(entries, shapes)
    complete = [copy for copy in copies if not _differences(copy, entries, shapes, extra=())]
    if not complete:
        raise _does_not_fit(copies, entries, shapes, title)
    copy = _choose(complete, entries, title)
    beside = _beside(copy, entries)
    if needed := [key for key in beside if not _is_left_out(key, copy.prefix, unused)]:
        differences = _differences(copy, entries, shapes, tuple(needed))
        raise _misfit(title, differences, entries, [copy])
    weights = {name: entries[key].tensor for name, key in copy.keys.items()}
    _check_tensors(weights, network, title)
    counters = {name: torch.zeros_like(value, device="cpu") for name, value in network.items() if _is_counter(name)}
    ordered = {name: (counters | weights)[name] for name in network}
    for name in counters:  # some programs store it as float or as [1]
        ordered[name] = ordered[name].reshape(()).to(torch.int64) if ordered[name].numel() == 1 else counters[name]
    return Fitted(ordered, _remarks(copy, entries, title))


def _flatten(content: Any, title: str) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for key, entry in _walk(content, (), set()):
        if key in entries:
            raise BadInput(f"{title} has two tensors named {_short(key)}", "save only the weights of one network")
        entries[key] = entry
    if not entries:
        keys = f" (its keys: {some(list(map(str, content)))})" if isinstance(content, Mapping) and content else ""
        raise BadInput(
            f"{title} is not a state dict (parameter name -> tensor){keys}",
            'save one: torch.save(model.state_dict(), "weights.pt")',
        )
    return entries


def _walk(content: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, _Entry]]:
    """Yield the tensors of nested mappings. A mapping that is found twice is the same weights, and counts once."""
    if not isinstance(content, Mapping) or id(content) in seen or len(path) > MAX_DEPTH:
        return
    seen.add(id(content))
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield ".".join((*path, str(key))), _Entry(value, ".".join(path))
        else:
            yield from _walk(value, (*path, str(key)), seen)


def _copies(entries: Mapping[str, _Entry], shapes: Shapes) -> list[_Copy]:
    """Return the prefixes below which names of the network are found, the best first."""
    found: dict[str, dict[str, str]] = {}
    for key in entries:
        for prefix, name in _matches(key, shapes):
            found.setdefault(prefix, {}).setdefault(name, key)

    def fitting(copy: _Copy) -> tuple[int, int]:
        return sum(entries[key].tensor.shape == shapes[name] for name, key in copy.keys.items()), len(copy.keys)

    return sorted((_Copy(prefix, keys) for prefix, keys in found.items()), key=fitting, reverse=True)


def _matches(key: str, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Yield each prefix of a key and the name of the network that follows it. Wrappers inside the name are skipped."""
    parts = key.split(".")
    for start in range(max(0, len(parts) - MAX_PARTS), len(parts)):
        name = ".".join(part for part in parts[start:] if part not in WRAPPERS)
        if name in shapes and parts[start] not in WRAPPERS:
            yield ".".join(parts[:start]), name


def _differences(copy: _Copy, entries: Mapping[str, _Entry], shapes: Shapes, extra: tuple[str, ...]) -> list[str]:
    missing = sorted(name for name in shapes if name not in copy.keys and not _is_counter(name))
    reshaped = sorted(
        name for name, key in copy.keys.items() if not _is_counter(name) and entries[key].tensor.shape != shapes[name]
    )
    kinds = {"missing": missing, "unexpected": sorted(extra), "with another shape": reshaped}
    return [f"{len(keys)} {kind} ({some(keys)})" for kind, keys in kinds.items() if keys]


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


def _choose(copies: list[_Copy], entries: Mapping[str, _Entry], title: str) -> _Copy:
    different: list[_Copy] = []
    for copy in copies:
        if not any(_same(copy, other, entries) for other in different):
            different.append(copy)
    averages = [copy for copy in different if _words(copy.prefix) & AVERAGES]
    chosen = averages if len(averages) == 1 else different
    if len(chosen) > 1:
        cause = f"{title} holds {len(chosen)} different sets of these weights ({some([one.title for one in chosen])})"
        raise BadInput(cause, "save the one to use by itself")
    return chosen[0]


def _same(one: _Copy, other: _Copy, entries: Mapping[str, _Entry]) -> bool:
    both = (
        (entries[key].tensor, entries[other.keys[name]].tensor) for name, key in one.keys.items() if name in other.keys
    )
    return all(a is b or (_kind(a) == _kind(b) and torch.equal(a, b)) for a, b in both)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.layout, tensor.device, tensor.is_quantized


def _beside(copy: _Copy, entries: Mapping[str, _Entry]) -> list[str]:
    """Return the keys beside the weights that are not weights of the network.

    They are in the same mapping below the same prefix. If the weights are in several mappings, one for each part of the
    network, the other mappings count too.
    """
    used = set(copy.keys.values())
    holders = {entries[key].holder for key in used}
    below = f"{copy.prefix}." if copy.prefix else ""
    return [
        key
        for key, entry in entries.items()
        if key not in used and key.startswith(below) and (entry.holder in holders or len(holders) > 1)
    ]


def _is_left_out(key: str, prefix: str, unused: str) -> bool:
    parts = key[len(prefix) :].strip(".").split(".")
    return parts[-1] in BOOKKEEPING or parts[0] == unused or bool(_words(parts[0]) & TRAINING_ONLY)


def _words(text: str) -> set[str]:
    return set(re.split(r"[._\W]+", text.lower()))


def _check_tensors(weights: Mapping[str, Tensor], network: Mapping[str, Tensor], title: str) -> None:
    for name, tensor in weights.items():
        if problem := _problem(tensor, network[name]):
            raise BadInput(f"{name} in {title} {problem}", "save the weights as dense floating-point tensors")


def _problem(tensor: Tensor, expected: Tensor) -> str:
    if tensor.is_quantized:
        return "is a quantized tensor"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is a sparse or nested tensor"
    if tensor.device.type == "meta":
        return "has no values (it is on the device meta)"
    if expected.is_floating_point() and not tensor.is_floating_point():
        return f"holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers"
    return ""


def _remarks(copy: _Copy, entries: Mapping[str, _Entry], title: str) -> tuple[str, ...]:
    left_out = sorted(set(entries) - set(copy.keys.values()))
    if not copy.prefix and not left_out:
        return ()
    took = f"took {copy.prefix}.*" if copy.prefix else "took the weights"
    plural = "s" if len(left_out) != 1 else ""
    rest = f"; left out {len(left_out)} other tensor{plural} ({some(left_out)})" if left_out else ""
    return (f"{title}: {took}{rest}",)


def _does_not_fit(copies: list[_Copy], entries: Mapping[str, _Entry], shapes: Shapes, title: str) -> BadInput:
    best = copies[0] if copies else _Copy("", {})
    beside = _beside(best, entries) if copies else list(entries)
    return _misfit(title, _differences(best, entries, shapes, tuple(beside)), entries, copies)


def _misfit(title: str, differences: list[str], entries: Mapping[str, _Entry], copies: list[_Copy]) -> BadInput:
    tried = f"; prefixes tried: {some([copy.title for copy in copies])}" if copies else ""
    found = f"found {len(entries)} tensors ({some(list(entries))}){tried}"
    cause = f"The weights in {title} do not fit the network: {', '.join(differences)}; {found}"
    return BadInput(cause, "name the right network with --recipe")


def some(keys: list[str], limit: int = 4) -> str:
    """Return the first of many keys, for a message.

    >>> some(["a", "b", "c"], limit=2)
    'a, b, …'
    """
    return ", ".join(map(_short, keys[:limit])) + (", …" if len(keys) > limit else "")


def _short(key: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in key[:81])
    return printable if len(printable) <= 80 else printable[:79] + "…"
