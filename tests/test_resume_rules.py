"""What a resumed run may change, what its folder must hold, and who may write to it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace
from test_fine_tuning import CPU, RECIPE, with_train, write_images

from msal_deploy.checkpoint import load_checkpoint, save_checkpoint, untrained
from msal_deploy.errors import BadInput
from msal_deploy.files import output_lock
from msal_deploy.recipe import Recipe
from msal_deploy.train import LAST, load_state, train
from msal_deploy.train import trainer as module
from msal_deploy.train.resume import _differences

pytestmark = pytest.mark.usefixtures("one_torch_thread")
SHORT = with_train(RECIPE, epochs=1, batch=2, validate_every=1, ema=0.5, decay=1e-3)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sets")
    return {"home": write_images(folder / "home", 5, 0), "away": write_images(folder / "away", 5, 1)}


@pytest.fixture(scope="module")
def finished(sets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with a licence."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("finished") / "run"
    train(sets["home"], SHORT, out, licence="CC0-1.0", **CPU)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it: hard links, which an atomic write replaces."""
    (tmp_path / "run").mkdir()
    for file in finished.iterdir():
        if file.is_file():
            (tmp_path / "run" / file.name).hardlink_to(file)
    return tmp_path / "run"


def changed(field: str, value: Any) -> Recipe:
    plain = msgspec.to_builtins(SHORT)
    *parents, last = field.split(".")
    target = plain
    for parent in parents:
        target = target[parent]
    target[last] = value
    return msgspec.convert(plain, Recipe)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.seed", 3),
        ("train.rate", 0.5),
        ("train.batch", 3),
        ("train.loss", "bce+dice"),
        ("train.schedule", "cosine"),
        ("train.mixture", {"images": 1.0}),
        ("train.augment.noise", 3.0),
        ("network.model", "unet"),
        ("network.backbone", "resnet34"),
        ("network.weights", "imagenet"),
        ("network.channel_attention", False),
        ("export.tolerance", 0.5),
        ("name", "other"),
    ],
)
def test_a_field_that_differs_is_refused_with_both_values(run: Path, sets: Any, field: str, value: Any) -> None:
    recipe = changed(field, value)
    ((_, stored, given),) = _differences(SHORT, recipe)
    before = (run / LAST).read_bytes()
    with pytest.raises(BadInput) as caught:
        train(sets["home"], recipe, run, resume=True, **CPU)
    assert str(caught.value) == (
        f"{run} was started with {field} = {stored!r}, not {given!r}; leave the option out, or choose another folder"
    )
    assert given == value and (run / LAST).read_bytes() == before


def test_more_epochs_train_on_and_equal_those_of_one_run(run: Path, sets: Any, tmp_path: Path, capsys: Any) -> None:
    longer = with_train(SHORT, epochs=2)
    train(sets["home"], longer, tmp_path / "whole", **CPU)
    train(sets["home"], longer, run, resume=True, progress=True, **CPU)
    assert "Training 2 epochs instead of 1, at the constant learning rate 0.002" in capsys.readouterr().err
    expected, actual = load_state(tmp_path / "whole"), load_state(run)
    assert len(actual.history) == 2 and actual.recipe == longer and actual.licence == "CC0-1.0"
    for name, value in expected.tensors["network"].items():
        assert torch.equal(value, actual.tensors["network"][name]), name
    with pytest.raises(BadInput, match=r"trains for 2 epochs \(2 done\), which is more than 1; resume with as many"):
        train(sets["home"], SHORT, run, resume=True, **CPU)


def test_a_longer_cosine_is_said(sets: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(module.Trainer, "_train_epoch", lambda *_: (1.0, 1e-3))
    cosine = with_train(SHORT, schedule="cosine")
    train(sets["home"], cosine, tmp_path / "run", **CPU)
    train(sets["home"], with_train(cosine, epochs=3), tmp_path / "run", resume=True, progress=True, **CPU)
    assert "from epoch 2 on, the learning rate follows the cosine of 3 epochs" in capsys.readouterr().err


def test_a_finished_run_resumed_with_the_same_options_changes_nothing(run: Path, sets: Any) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    report = train(sets["home"], SHORT, run, resume=True, licence="CC0-1.0", **CPU)
    assert report.best.epoch == 1
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_the_licence_of_a_run_is_kept(run: Path, sets: Any) -> None:
    with pytest.raises(BadInput, match=r"The licence of .* is 'CC0-1.0', not 'MIT'; leave the option out"):
        train(sets["home"], SHORT, run, resume=True, licence="MIT", **CPU)
    assert load_checkpoint(run / "best.safetensors").licence == "CC0-1.0"


def tamper(run: Path, change: Any) -> None:
    content = torch.load(run / LAST, weights_only=True)
    change(content)
    (run / LAST).unlink()
    torch.save(content, run / LAST)


def other_moment(content: Any) -> None:
    content["tensors"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7)


TAMPERED = {
    "none": lambda content: content["tensors"].clear(),
    "list": lambda content: content.update(tensors=[1]),
    "no optimizer": lambda content: content["tensors"].pop("optimizer"),
    "another network": lambda content: content["tensors"].update(network={"a": torch.zeros(3)}),
    "not a network": lambda content: content["tensors"].update(network=3),
    "no average": lambda content: content["tensors"].update(average={}),
    "another moment": other_moment,
    "no moments": lambda content: content["tensors"]["optimizer"]["state"][0].clear(),
    "not finite": lambda content: content["tensors"]["network"]["head.2.bias"].fill_(torch.nan),
    "no recipe": lambda content: content.update(plain="[]"),
    "notes": lambda content: content.update(notes=3),
    "licence": lambda content: content.update(licence=None),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_resume_state_with_other_content_is_damaged(run: Path, sets: Any, how: str) -> None:
    tamper(run, TAMPERED[how])
    with pytest.raises(BadInput, match=f"{LAST} is damaged .*; start again in another folder") as caught:
        train(sets["home"], with_train(SHORT, epochs=2), run, resume=True, **CPU)
    assert "\n" not in str(caught.value)


def test_a_run_without_its_best_weights_is_refused(run: Path, sets: Any) -> None:
    (run / "best.safetensors").unlink()
    with pytest.raises(BadInput, match=r"best.safetensors is missing; put it back"):
        train(sets["home"], SHORT, run, resume=True, **CPU)


def test_weights_of_the_user_are_not_replaced(sets: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", untrained(SHORT))
    before = (tmp_path / "best.safetensors").read_bytes()
    with pytest.raises(BadInput, match=r"best.safetensors exists and training would replace it; choose another folder"):
        train(sets["home"], SHORT, tmp_path, **CPU)
    assert (tmp_path / "best.safetensors").read_bytes() == before


class Killed(Exception):
    """The process ended here."""


@pytest.mark.parametrize("starts", [False, True], ids=["random", "from a checkpoint"])
def test_a_run_killed_in_its_first_epoch_is_resumed(sets: Any, tmp_path: Path, monkeypatch: Any, starts: bool) -> None:
    start = untrained(replace(SHORT, name="start")) if starts else None

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module.Trainer, "_train_epoch", die)
        with pytest.raises(Killed):
            train(sets["home"], SHORT, tmp_path / "run", start=start, **CPU)
    assert load_state(tmp_path / "run").history == ()
    train(sets["home"], SHORT, tmp_path / "run", resume=True, **CPU)
    train(sets["home"], SHORT, tmp_path / "whole", start=start, **CPU)
    expected, actual = (load_state(tmp_path / name).tensors["network"] for name in ("whole", "run"))
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_in_the_same_folder_is_refused(run: Path, sets: Any, tmp_path: Path, resume: bool) -> None:
    import threading

    out, held, done = run if resume else tmp_path / "new", threading.Event(), threading.Event()

    def other_command() -> None:
        with output_lock(out):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other_command)
    thread.start()
    held.wait(60)
    try:
        with pytest.raises(BadInput, match="Another msal-deploy command is writing to"):
            train(sets["home"], SHORT, out, resume=resume, **CPU)
    finally:
        done.set()
        thread.join()
