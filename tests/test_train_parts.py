"""The parts of training (patch dataset, loss, learning rate, state) and one epoch on three tiny images."""

import csv
import math

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from plain_recipe import OFF, plain

from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.recipe import AugmentRecipe, Recipe, TrainRecipe
from msal_deploy.train import BEST, LAST, Epoch, load_state, train
from msal_deploy.train.losses import segmentation_loss
from msal_deploy.train.optim import rate_at
from msal_deploy.train.patch_dataset import PatchDataset, as_tensors
from msal_deploy.train.state import State, save_state

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def images(make_annotated_image):
    """Twelve images of one colour each, of the size of a patch; the mask is the upper half."""
    mask = np.arange(64)[:, None].repeat(64, 1) < 32
    return [make_annotated_image(f"image-{i:02}", np.full((64, 64, 3), 10 * i, np.uint8), mask) for i in range(12)]


def dataset_of(images, recipe: TrainRecipe, rank: int = 0, world: int = 1) -> PatchDataset:
    return PatchDataset({"images": images}, recipe, rank, world)


def seen(dataset: PatchDataset, epoch: int = 1) -> list[int]:
    """Return the indices of the images of an epoch in order, identified by their colour."""
    return [int(image[0, 0, 0]) // 10 for images, _ in dataset.batches(epoch) for image in images]


def test_batches_are_bytes_and_masks(images):
    batches = list(dataset_of(images, plain(batch=5)).batches(1))
    assert len(batches) == 2  # of 12; an incomplete one is dropped
    for images, masks in batches:
        assert images.dtype == torch.uint8 and images.shape == (5, 3, 64, 64)
        assert masks.dtype == torch.uint8 and masks.shape == (5, 1, 64, 64)
        assert masks[:, :, :32].eq(1).all() and masks[:, :, 32:].eq(0).all()


def test_each_epoch_shows_every_image_once_in_another_order(images):
    dataset = dataset_of(images, plain())
    orders = [seen(dataset, epoch) for epoch in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != orders[1]
    assert seen(dataset, 1) == orders[0]


def test_seed_changes_the_order(images):
    assert seen(dataset_of(images, plain(seed=1))) != seen(dataset_of(images, plain(seed=2)))


@pytest.mark.parametrize("world", [2, 3, 6])
def test_shares_of_the_ranks_are_disjoint_and_equal(images, world):
    shares = [seen(dataset_of(images, plain(), rank, world)) for rank in range(world)]
    assert {len(share) for share in shares} == {12 // world}
    assert sorted(index for share in shares for index in share) == list(range(12))


def test_ranks_use_different_augmentation(images):
    recipe = plain(batch=6, augment=AugmentRecipe(crop="corners", stain=0.5))
    totals = [
        [images.sum().item() for images, _ in dataset_of(images, recipe, rank, 2).batches(1)] for rank in (0, 0, 1)
    ]
    assert totals[0] == totals[1] != totals[2]


def test_same_epoch_gives_the_same_augmented_batches(images):
    dataset = dataset_of(images, TrainRecipe(patch=64, augment=AugmentRecipe(stain=0.1)))
    first, second, third = (list(dataset.batches(number)) for number in (1, 1, 2))
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(one[0], other[0]) for one, other in zip(first, third, strict=True))


def test_several_random_crops_are_taken_per_image(make_annotated_image):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    annotated = make_annotated_image("a", image, image[..., 0] > 128)
    recipe = plain(batch=1, patches_per_image=6, augment=msgspec.structs.replace(OFF, crop="random"))
    batches = list(dataset_of([annotated], recipe).batches(1))
    assert len(batches) == 6
    assert len({images.numpy().tobytes() for images, _ in batches}) > 1
    for images, masks in batches:
        assert torch.equal(masks, (images[:, :1] > 128).to(torch.uint8))


def test_images_smaller_than_the_patch_are_rejected(images):
    with pytest.raises(BadInput, match="smaller than 96 px"):
        dataset_of(images, plain(patch=96))


def test_more_ranks_than_patches_are_rejected(images):
    with pytest.raises(BadInput, match="1 patches per epoch are too few for 2 devices; use fewer --devices"):
        dataset_of(images[:1], plain(batch=1), rank=1, world=2)


def test_as_tensors_puts_channels_first():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    pixels, truth = as_tensors(image, image[..., 0] > 128)
    assert pixels.shape == (3, 4, 6) and truth.shape == (1, 4, 6)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), image)
    assert np.array_equal(truth[0].numpy() > 0, image[..., 0] > 128)


def test_constant_rate_after_a_linear_warmup():
    recipe = TrainRecipe(rate=0.4, epochs=4, warmup=2)
    assert [rate_at(recipe, step, 2) for step in range(8)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])


def test_cosine_schedule_falls_to_almost_zero():
    recipe = TrainRecipe(rate=1.0, epochs=10, schedule="cosine", warmup=1)
    rates = [rate_at(recipe, step, 10) for step in range(100)]
    assert max(rates) == pytest.approx(1.0) == rates[10]
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_loss_against_the_formula():
    logits, masks = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    probability = torch.sigmoid(torch.tensor(2.0)).item()
    bce = (-math.log(0.5) - math.log(probability)) / 2
    soft_dice = (2 * probability + 1) / (0.5 + probability + 1 + 1)
    assert segmentation_loss(logits, masks, "bce").item() == pytest.approx(bce)
    assert segmentation_loss(logits, masks, "bce+dice").item() == pytest.approx(bce + 1 - soft_dice)


def test_dice_loss_of_empty_masks_is_finite_and_near_zero():
    logits = torch.full((2, 1, 8, 8), -20.0, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(2, 1, 8, 8), "bce+dice")
    loss.backward()
    assert 0 <= loss.item() < 1e-4 and logits.grad.isfinite().all()


HISTORY = (Epoch(1, 0.7, 1e-3, 2.0, 0.5, 0.4), Epoch(2, 0.6, 1e-3, 2.0), Epoch(3, 0.5, 1e-3, 2.0, 0.45, 0.35))


def test_state_is_read_back(tmp_path):
    state = State(Recipe(name="mine"), ("a", "b"), HISTORY, {"network": {"w": torch.arange(3.0)}})
    save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert (loaded.recipe, loaded.stems, loaded.history) == (state.recipe, state.stems, state.history)
    assert torch.equal(loaded.tensors["network"]["w"], torch.arange(3.0))
    assert loaded.best_dice == 0.5
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["validation_dice"] for row in rows] == ["0.5", "", "0.45"]
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size[0] > 500


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_damaged_state_is_rejected(tmp_path, content):
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        load_state(tmp_path)


def test_state_without_tensors_is_rejected(tmp_path):
    plain_state = msgspec.json.encode((Recipe(), ("a",), HISTORY)).decode()
    torch.save({"plain": plain_state}, tmp_path / LAST)
    with pytest.raises(BadInput, match="damaged"):
        load_state(tmp_path)


def test_full_disk_keeps_the_older_state(small_disk):
    save_state(small_disk, State(Recipe(), ("a",), HISTORY, {}))
    with pytest.raises(Exception, match=r".+"):
        save_state(small_disk, State(Recipe(), ("a",), HISTORY[:1], {"network": torch.zeros(10**6)}))
    assert load_state(small_disk).history == HISTORY
    assert sorted(path.name for path in small_disk.iterdir()) == ["curves.png", "history.csv", LAST]


def test_full_disk_raises_an_os_error(small_disk):
    with pytest.raises((OSError, MissingRequirement)):
        save_state(small_disk, State(Recipe(), ("a",), HISTORY, {"network": torch.zeros(10**6)}))


@pytest.fixture
def tiny(recipe, images):
    """Three images, and a recipe for one epoch."""
    return images[:3], msgspec.structs.replace(recipe, train=plain(epochs=1, batch=2))


def with_train(recipe: Recipe, **changes: object) -> Recipe:
    return msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, **changes))


def test_train_writes_a_checkpoint_of_the_best_epoch(tiny, tmp_path):
    images, recipe = tiny
    out = tmp_path / "run"
    report = train(images, recipe, out, licence="CC0-1.0", accelerator="cpu")
    assert {path.name for path in out.iterdir()} == {BEST, LAST, "history.csv", "curves.png", "tensorboard"}
    checkpoint = load_checkpoint(report.checkpoint)
    assert (checkpoint.recipe, checkpoint.licence) == (recipe, "CC0-1.0")
    assert checkpoint.notes["epoch"] == "1"
    assert float(checkpoint.notes["validation_dice"]) == pytest.approx(report.best.validation_dice, abs=1e-6)
    assert set(report.validation_stems) < {image.stem for image in images}
    assert checkpoint.network()(torch.zeros(1, 3, 64, 64)).isfinite().all()

    with pytest.raises(BadInput, match="--resume"):  # the folder is taken now
        train(images, recipe, out, accelerator="cpu")
    with pytest.raises(BadInput, match=r"was started with train\.seed = 0, not 9"):
        train(images, with_train(recipe, seed=9), out, resume=True, accelerator="cpu")
    with pytest.raises(BadInput, match="other images"):
        train(images[:2], recipe, out, resume=True, accelerator="cpu")
    assert train(images, recipe, out, resume=True, accelerator="cpu").history == report.history


def test_resume_without_a_run_is_rejected(tiny, tmp_path):
    with pytest.raises(BadInput, match="not a training run to resume"):
        train(*tiny, tmp_path, resume=True, accelerator="cpu")


def test_a_single_image_is_rejected(tiny, tmp_path):
    images, recipe = tiny
    with pytest.raises(BadInput, match="Expected at least 2 training images"):
        train(images[:1], recipe, tmp_path / "run", accelerator="cpu")


def test_missing_encoder_is_rejected_before_the_folder_is_created(tiny, tmp_path):
    images, recipe = tiny
    recipe = msgspec.structs.replace(recipe, network=msgspec.structs.replace(recipe.network, weights="none.pth"))
    with pytest.raises(BadInput, match=r"none\.pth"):
        train(images, recipe, tmp_path / "run", accelerator="cpu")
    assert not (tmp_path / "run").exists()


def test_exploding_loss_fails_the_gate(tiny, tmp_path):
    images, recipe = tiny
    with pytest.raises(GateFailed, match=r"lower train\.rate"):
        train(images, with_train(recipe, rate=1e30, epochs=2, batch=1, checkpoint_every=2), tmp_path, accelerator="cpu")
    assert not (tmp_path / BEST).exists()


@pytest.mark.parametrize(("accelerator", "error"), [("cuda", MissingRequirement), ("zebra", BadInput)])
def test_missing_accelerator_is_rejected(tiny, tmp_path, accelerator, error):
    if accelerator == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    with pytest.raises(error):
        train(*tiny, tmp_path / "run", accelerator=accelerator)


@pytest.mark.filterwarnings("ignore:You passed `Fabric")
def test_precision_that_the_device_lacks_is_rejected(tiny, tmp_path):
    images, recipe = tiny
    with pytest.raises((BadInput, MissingRequirement)):
        train(images, with_train(recipe, precision="16-mixed"), tmp_path / "run", accelerator="cpu")
