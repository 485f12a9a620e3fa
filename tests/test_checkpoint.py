"""Checkpoints round-trip; damaged, foreign and dangerous files are rejected with a message."""

import os
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file
from torchvision import models

from msal_deploy.checkpoint import (
    UNKNOWN_LICENCE,
    Checkpoint,
    load_checkpoint,
    own_recipe,
    pretrained_resnet,
    save_checkpoint,
)
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.recipe import NetworkRecipe, Recipe

TINY = {"a": torch.arange(3.0), "b.c": torch.zeros(2, 2)}


def test_checkpoint_is_read_back(checkpoint, checkpoint_file):
    loaded = load_checkpoint(checkpoint_file)
    assert (loaded.recipe, loaded.licence, loaded.notes) == (checkpoint.recipe, "CC0-1.0", {"epoch": "1"})
    assert loaded.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(loaded.weights[key], value) for key, value in checkpoint.weights.items())


def test_network_computes_what_the_saved_one_did(checkpoint, checkpoint_file):
    image = torch.randn(1, 3, 64, 64)
    network = load_checkpoint(checkpoint_file).network()
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(image), checkpoint.network()(image))


def test_save_checkpoint_writes_one_file_that_others_can_read(tmp_path):
    save_checkpoint(tmp_path / "run" / "a.safetensors", Checkpoint(TINY, Recipe(), notes={'ü"': "Δ\n"}))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.safetensors"]
    assert (tmp_path / "run" / "a.safetensors").stat().st_mode & 0o044 == 0o044
    assert load_checkpoint(tmp_path / "run" / "a.safetensors").notes == {'ü"': "Δ\n"}


def test_save_checkpoint_accepts_channels_last(tmp_path):
    weight = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint({"a": weight}, Recipe()))
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").weights["a"], weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_network_converts_other_floats_to_fp32(checkpoint, tmp_path, dtype):
    weights = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in checkpoint.weights.items()
    }
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(weights, checkpoint.recipe))
    network = load_checkpoint(tmp_path / "a.safetensors").network()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(torch.equal(value, weights[key].to(value.dtype)) for key, value in network.state_dict().items())


def test_network_lists_the_keys_that_differ(checkpoint):
    weights = dict(checkpoint.weights)
    del weights["head.2.bias"]
    weights["extra"] = weights["head.2.weight"]
    weights["head.2.weight"] = torch.zeros(5)
    with pytest.raises(BadInput) as caught:
        Checkpoint(weights, checkpoint.recipe).network()
    message = str(caught.value)
    assert "1 missing (head.2.bias)" in message
    assert "1 unexpected (extra)" in message
    assert "1 with another shape (head.2.weight)" in message
    assert "--recipe" in message


def test_network_rejects_another_backbone_briefly(checkpoint):
    with pytest.raises(BadInput, match="do not fit the network") as caught:
        Checkpoint(checkpoint.weights, Recipe()).network()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size", [0, 6, 9, 600, -1])
def test_load_checkpoint_rejects_truncated_safetensors(checkpoint_file, tmp_path, size):
    content = checkpoint_file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:size])
    message = {0: "is empty", 6: "is neither a safetensors nor a PyTorch file"}
    with pytest.raises(BadInput, match=message.get(size, "is not a complete safetensors file")):
        load_checkpoint(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("content", [b"\xff" * 64, b"hello, this is text", b"\x00" * 64])
def test_load_checkpoint_rejects_other_content(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BadInput):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("none.pt", "does not exist"), ("none", "does not exist"), ("folder.pt", "is a folder"), ("fifo.ckpt", "FIFO")],
)
def test_load_checkpoint_names_what_is_not_a_file(tmp_path, name, problem):
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "fifo.ckpt")
    for read in (lambda path: load_checkpoint(path, Recipe()), own_recipe):
        with pytest.raises(BadInput, match=f"The weight file .*{name} .*{problem}"):
            read(tmp_path / name)


def test_foreign_safetensors_need_a_recipe(checkpoint, tmp_path):
    save_file(checkpoint.weights, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="--recipe"):
        load_checkpoint(tmp_path / "a.safetensors")
    mine = replace(checkpoint.recipe, name="mine")
    loaded = load_checkpoint(tmp_path / "a.safetensors", mine)
    assert (loaded.recipe, loaded.licence, loaded.file) == (mine, UNKNOWN_LICENCE, None)


def test_load_checkpoint_rejects_a_damaged_recipe(tmp_path):
    save_file(TINY, tmp_path / "a.safetensors", metadata={"recipe": '{"nam": 1}'})
    with pytest.raises(BadInput, match="The metadata is not a recipe"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("notes", ["{", '{"epoch": 3}', "[]"])
def test_load_checkpoint_rejects_damaged_notes(tmp_path, notes):
    save_file(TINY, tmp_path / "a.safetensors", metadata={"recipe": Recipe().to_json(), "notes": notes})
    with pytest.raises(BadInput):
        load_checkpoint(tmp_path / "a.safetensors")


def test_state_dict_needs_a_recipe(tmp_path):
    torch.save(TINY, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="--recipe"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), None, {"a": 1}, {"state_dict": {"a": "text"}}], ids=str)
def test_load_checkpoint_rejects_other_objects(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="is not a state dict"):
        load_checkpoint(tmp_path / "a.pt", Recipe())


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_rejected_and_does_not_run(tmp_path, zipped):
    content = {"state_dict": TINY, "x": Malicious(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"contains more than weights \(posix.mkdir\), and unpickling it could run code"):
        load_checkpoint(tmp_path / "a.pt", Recipe())
    assert not (tmp_path / "ran").exists()


def test_load_checkpoint_rejects_a_pickled_module(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(
        BadInput,
        match=r"\(torch.nn.modules.linear.Linear\), and .* could run code; save only the weights: torch.save\(",
    ):
        load_checkpoint(tmp_path / "a.pt", Recipe())


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_load_checkpoint_rejects_a_truncated_state_dict(tmp_path, share):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadInput):
        load_checkpoint(tmp_path / "a.pt", Recipe())


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02.", b"\x80"])
def test_load_checkpoint_rejects_a_file_that_is_not_a_pickle(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BadInput):
        load_checkpoint(tmp_path / "a.pt", Recipe())


@pytest.mark.parametrize("content", [b"<html>Not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_html_page_is_not_reported_as_code(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_checkpoint(tmp_path / "a.pt", Recipe())
    assert "could run code" not in str(caught.value)


def test_full_disk_is_reported_and_leaves_no_file(small_disk):
    with pytest.raises(MissingRequirement, match="is full"):
        save_checkpoint(small_disk / "a.safetensors", Checkpoint({"a": torch.zeros(10**6)}, Recipe()))
    assert list(small_disk.iterdir()) == []


def save_resnet(path: Path, **changes: torch.Tensor) -> NetworkRecipe:
    torch.save(models.resnet18(weights=None).state_dict() | changes, path)
    return NetworkRecipe(backbone="resnet18", weights=str(path))


def test_random_encoder_has_no_resnet():
    assert pretrained_resnet(NetworkRecipe(weights="random")) is None


def test_pretrained_resnet_ignores_the_classifier(tmp_path):
    recipe = save_resnet(tmp_path / "a.pth", **{"fc.weight": torch.zeros(4, 512), "fc.bias": torch.zeros(4)})
    assert pretrained_resnet(recipe) is not None


def test_pretrained_resnet_rejects_another_backbone(tmp_path):
    save_resnet(tmp_path / "a.pth")
    with pytest.raises(BadInput, match="layer"):
        pretrained_resnet(NetworkRecipe(backbone="resnet34", weights=str(tmp_path / "a.pth")))


@pytest.mark.parametrize("weights", ["imagenett", "no/such/file.pth"])
def test_pretrained_resnet_rejects_a_missing_file(weights):
    with pytest.raises(BadInput, match=weights):
        pretrained_resnet(NetworkRecipe(weights=weights))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache of torch; returns where the weights of ResNet-18 would be."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]


def test_imagenet_weights_without_a_connection_suggest_encoder(hub, monkeypatch):
    def unreachable(*arguments: object, **options: object) -> None:
        from urllib.error import URLError

        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(MissingRequirement, match=r"no route.*--encoder"):
        pretrained_resnet(NetworkRecipe(backbone="resnet18"))


def test_imagenet_weights_are_read_from_torchs_cache(hub):
    save_resnet(hub, **{"bn1.bias": torch.full((64,), 0.25)})
    resnet = pretrained_resnet(NetworkRecipe(backbone="resnet18"))
    assert resnet is not None and resnet.bn1.bias.tolist() == [0.25] * 64


def test_damaged_file_in_torchs_cache_is_named(hub):
    hub.write_bytes(b"<html>")
    with pytest.raises((BadInput, MissingRequirement)):
        pretrained_resnet(NetworkRecipe(backbone="resnet18"))
