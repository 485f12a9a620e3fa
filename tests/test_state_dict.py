"""Weights of other programs: found under any prefix in any wrapper, or refused with what was found and tried."""

import argparse
import datetime
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from msal_deploy.checkpoint import Checkpoint, load_checkpoint
from msal_deploy.errors import BadInput
from msal_deploy.state_dict import fit

Weights = dict[str, Tensor]
NETWORK = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), head=nn.Conv2d(4, 1, 1)))
WEIGHTS: Weights = {key: torch.rand_like(value.float()).to(value.dtype) for key, value in NETWORK.state_dict().items()}
OTHER: Weights = {key: value + 1 for key, value in WEIGHTS.items()}


def below(prefix: str, weights: Weights = WEIGHTS) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def inside(module: str) -> Weights:
    """The weights of a network whose body was wrapped."""
    return {key.replace("body.", f"body.{module}."): value for key, value in WEIGHTS.items()}


def assert_found(content: Any, left_out: int = 0) -> None:
    fitted = fit(content, NETWORK.state_dict(), "a.pt")
    assert list(fitted.weights) == list(WEIGHTS)
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in fitted.weights.items())
    said = f"left out {left_out} other tensor" in " ".join(fitted.remarks)
    assert said == (left_out > 0), fitted.remarks


PREFIXES = ["", "module.", "_orig_mod.", "model.", "net.", "network.", "student.", "ema.", "module._orig_mod.",
            "_orig_mod.module.", "model._orig_mod.module.", "anything.at.all.", "_forward_module.model."]  # fmt: skip
WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda weights: weights,
    "ordered": OrderedDict,
    **{
        key: lambda weights, key=key: {"epoch": 7, key: weights, "optimizer": {"lr": 0.1, "state": {}}, "x": [1, None]}
        for key in ("state_dict", "model_state_dict", "model", "net", "weights", "params", "ema", "state_dict_ema")
    },
    "nested": lambda weights: {"checkpoint": {"model": {"state_dict": weights}}},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_in_any_wrapper_is_found(prefix: str, wrapper: str) -> None:
    assert_found(WRAPPED[wrapper](below(prefix)))


def test_wrapped_parts_of_a_network_are_found() -> None:
    for module in ("module", "_orig_mod", "module._orig_mod", "_fsdp_wrapped_module"):
        assert_found(inside(module))
        assert_found({"state_dict": {f"model.{key}": value for key, value in inside(module).items()}})
    parts = {
        part: {k[len(part) + 1 :]: v for k, v in WEIGHTS.items() if k.startswith(part)} for part in ("body", "head")
    }
    assert_found(parts)
    assert_found({**parts, "optimizer": {"momentum": torch.ones(3)}}, left_out=1)


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    "beside",
    [
        {"total_ops": ONE, "body.0.total_params": ONE},
        {"n_averaged": torch.tensor(3)},
        {"criterion.weight": ONE, "loss.pos_weight": ONE},
        {"dice_loss.weights": ONE, "train_dice.tp": ONE, "val_metrics.MulticlassJaccardIndex.confmat": ONE},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_harmless_entries_are_left_out_and_said(beside: Weights) -> None:
    for content in (WEIGHTS | beside, {"state_dict": below("model.", WEIGHTS | beside)}):
        assert_found(content, left_out=len(beside))
    assert_found({"state_dict": below("model.") | beside}, left_out=len(beside))


def test_a_batch_norm_without_its_counter_is_completed() -> None:
    old = {key: value for key, value in WEIGHTS.items() if not key.endswith("num_batches_tracked")}
    for counter in ({}, {"body.1.num_batches_tracked": torch.tensor([2.0])}):
        weights = fit(old | counter, NETWORK.state_dict(), "a.pt").weights
        assert list(weights) == list(WEIGHTS)
        assert torch.equal(weights["body.1.num_batches_tracked"], torch.tensor(2 if counter else 0))


def test_averaged_weights_are_taken_and_said() -> None:
    averaged = AveragedModel(NETWORK).state_dict()
    for content in (
        {"model": OTHER, "ema": WEIGHTS},
        {"state_dict": OTHER, "state_dict_ema": WEIGHTS},
        {"model": OTHER, "model_ema": below("module.")},
        below("model.", OTHER) | below("ema_model."),
        {"network": OTHER, "swa": {key: WEIGHTS.get(key[7:], value) for key, value in averaged.items()}},
    ):
        fitted = fit(content, NETWORK.state_dict(), "a.pt")
        assert torch.equal(fitted.weights["head.bias"], WEIGHTS["head.bias"])
        assert "ema" in fitted.remarks[0] or "swa" in fitted.remarks[0]


@pytest.mark.parametrize(
    "content",
    [
        below("student.") | below("teacher.", OTHER),
        {"model": WEIGHTS, "best_model": OTHER},
        WEIGHTS | below("old.", OTHER),
    ],
    ids=["teacher", "best", "old"],
)
def test_several_sets_of_weights_are_refused(content: Any) -> None:
    with pytest.raises(BadInput, match=r"a.pt holds 2 different sets of these weights \(.*\); save the one"):
        fit(content, NETWORK.state_dict(), "a.pt")


def test_the_same_weights_twice_are_one() -> None:
    assert_found({"model": WEIGHTS, "best": WEIGHTS})
    assert_found(below("model.") | below("backup."), left_out=len(WEIGHTS))


def test_what_a_network_would_need_is_not_left_out() -> None:
    for key in ("refinement.weight", "body.2.weight", "head.scale"):
        for content in (WEIGHTS | {key: ONE}, {"state_dict": below("model.", WEIGHTS | {key: ONE})}):
            with pytest.raises(BadInput, match=rf"1 unexpected \(.*{key}\)"):
                fit(content, NETWORK.state_dict(), "a.pt")


def test_the_message_lists_what_was_found_and_tried() -> None:
    content = {"epoch": ONE, "model": below("net.") | {"net.head.bias": torch.zeros(9)}}
    del content["model"]["net.head.weight"]
    with pytest.raises(BadInput) as caught:
        fit(content, NETWORK.state_dict(), "a.pt")
    assert str(caught.value) == (
        "The weights in a.pt do not fit the network: 1 missing (head.weight), 1 with another shape (head.bias); found "
        "9 tensors (epoch, model.net.body.0.weight, model.net.body.0.bias, model.net.body.1.weight, …); prefixes "
        "tried: model.net.; name the right network with --recipe"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8), "is a quantized tensor"),
        (torch.zeros(1).to_sparse(), "is a sparse or nested tensor"),
        (torch.zeros(1, device="meta"), "has no values"),
        (torch.zeros(1, dtype=torch.complex64), "holds complex64"),
        (torch.zeros(1, dtype=torch.int8), "holds int8"),
        (torch.zeros(1, dtype=torch.bool), "holds bool"),
        (torch.zeros(1).expand(10**12), "1 with another shape"),
    ],
    ids=["quantized", "sparse", "meta", "complex", "int8", "bool", "a trillion"],
)
def test_tensors_that_are_not_weights_are_refused(value: Tensor, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        fit(WEIGHTS | {"head.bias": value}, NETWORK.state_dict(), "a.pt")


def test_hostile_nesting_ends() -> None:
    loop: dict[str, Any] = {}
    loop.update({f"a{index}": loop for index in range(10)})
    deep: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(5000):
        deep = {"a": deep, "b": deep}
    for content in (loop, deep, {"a": 1}, [], None, {"x" * 10**6: 1}):
        with pytest.raises(BadInput, match="is not a state dict") as caught:
            fit(content, NETWORK.state_dict(), "a.pt")
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="do not fit"):
        fit({".".join("abc" * 10**4): torch.zeros(1), "\n": torch.zeros(1)}, NETWORK.state_dict(), "a.pt")


# --- files -----------------------------------------------------------------------------------------------------------

SETTINGS = {
    "numpy": np.float64(0.81),
    "array": np.arange(3),
    "dtype": np.dtype("float32"),
    "args": argparse.Namespace(lr=0.1),
    "path": PosixPath("runs"),
    "date": datetime.datetime(2026, 1, 1),
    "default": defaultdict(list, a=[1]),
    "set": {1, 2},
}


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a.bin", "a.pkl", "a", "a.safetensors", "a.pt"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files_are_recognised_by_content(checkpoint: Checkpoint, tmp_path: Path, name: str, zipped: bool) -> None:
    content = {"state_dict": below("model.", checkpoint.weights), "hyper_parameters": SETTINGS}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(tmp_path / name, checkpoint.recipe)
    assert loaded.weights.keys() == checkpoint.weights.keys() and loaded.file is None
    assert all(torch.equal(loaded.weights[key], value) for key, value in checkpoint.weights.items())
    assert loaded.remarks == (f"{tmp_path / name}: took state_dict.model.*",)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a"])
def test_safetensors_are_recognised_by_content(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    save_file(below("module.model.", checkpoint.weights), tmp_path / name)
    loaded = load_checkpoint(tmp_path / name, checkpoint.recipe)
    assert torch.equal(loaded.weights["head.2.bias"], checkpoint.weights["head.2.bias"])


class Own:
    """A class of the user's program."""


@pytest.mark.parametrize(
    "content", [NETWORK, {"state_dict": WEIGHTS, "x": Own()}, {"x": print}], ids=["module", "own", "f"]
)
def test_whole_modules_and_own_classes_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(
        BadInput, match=r"more than weights \(.*\), and .* could run code; .*torch.save\(model.state_dict"
    ):
        load_checkpoint(tmp_path / "a.ckpt")


def write_npz(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3))


def write_bomb(path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "html": (lambda path: path.write_bytes(b"\n<!DOCTYPE html>"), "is a web page"),
    "lfs": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(99)), "is a gzip archive; unpack it first"),
    "tar": (lambda path: path.write_bytes(bytes(257) + b"ustar" + bytes(250)), "is a tar archive; unpack it first"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle that torch.save did not write"),
    "script": (lambda path: torch.jit.script(nn.Linear(2, 2)).save(str(path)), "is a TorchScript program"),
    "npz": (write_npz, "is a zip that torch.save did not write"),
    "bomb": (write_bomb, "unpacks to more bytes than it has"),
    "text": (lambda path: path.write_text("hello"), "is neither a safetensors nor a PyTorch file"),
    "zeros": (lambda path: path.write_bytes(bytes(99)), "is neither a safetensors nor a PyTorch file"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_other_files_are_named(tmp_path: Path, kind: str, name: str) -> None:
    write, message = OTHERS[kind]
    write(tmp_path / name)
    with pytest.raises(BadInput, match=message):
        load_checkpoint(tmp_path / name)
