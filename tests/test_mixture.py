"""Patches from several data sets: their shares, their order, and images that are smaller than a patch."""

from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch
from plain_recipe import augment_only, plain

from msal_deploy.errors import BadInput
from msal_deploy.recipe import ROBUST, TrainRecipe
from msal_deploy.train.patch_dataset import PatchDataset
from msal_deploy.train.validation import make_views

pytestmark = pytest.mark.usefixtures("one_torch_thread")
CROP = augment_only(crop="random")
SIZES = {"a": 3, "b": 5, "c": 7}
WEIGHTS = {"a": 0.5, "b": 0.2, "c": 0.3}


@pytest.fixture
def sets(make_annotated_image):
    """Three sets of images of one colour each: red is the number of the set, green that of the image."""
    mask = np.arange(64)[:, None].repeat(64, 1) < 32
    return {
        name: [
            make_annotated_image(f"{name}{image}", np.full((64, 64, 3), (index, image, 0), np.uint8), mask)
            for image in range(count)
        ]
        for index, (name, count) in enumerate(SIZES.items())
    }


def patches(dataset: PatchDataset, epoch: int = 1) -> list[tuple[str, int]]:
    """Return set and image of the patches of an epoch, in order, read from their colours."""
    pixels = [image[:, 0, 0].tolist() for images, _ in dataset.batches(epoch) for image in images]
    return [("abc"[red], green) for red, green, _ in pixels]


def mixed(**changes: object) -> TrainRecipe:
    return plain(**({"batch": 1, "patches_per_image": 7, "augment": CROP, "mixture": WEIGHTS} | changes))


def test_sets_have_the_shares_of_the_mixture(sets):
    counts = Counter(name for name, _ in patches(PatchDataset(sets, mixed())))
    assert sum(counts.values()) == 7 * 15
    for name, weight in WEIGHTS.items():  # 52.5, 21 and 31.5 of 105
        assert abs(counts[name] - weight * 105) <= 1


def test_images_of_a_set_are_drawn_equally_often(sets):
    counts = Counter(patches(PatchDataset(sets, mixed())))
    for name, images in SIZES.items():
        of_set = [counts[name, image] for image in range(images)]
        assert min(of_set) >= 1
        assert max(of_set) - min(of_set) <= 1


def test_a_small_share_takes_other_images_in_other_epochs(sets):
    dataset = PatchDataset(sets, mixed(mixture={"a": 0.9, "b": 0.05, "c": 0.05}, patches_per_image=2))
    drawn = [{image for name, image in patches(dataset, epoch) if name == "c"} for epoch in range(1, 21)]
    assert all(len(images) <= 3 for images in drawn)
    assert set().union(*drawn) == set(range(7))


def test_weights_are_relative(sets):
    assert PatchDataset(sets, mixed(mixture={"c": 3, "b": 2, "a": 5})).order(1) == PatchDataset(sets, mixed()).order(1)


def test_without_a_mixture_all_images_are_drawn_equally_often(sets):
    counts = Counter(patches(PatchDataset(sets, mixed(mixture={}))))
    assert set(counts.values()) == {7} and len(counts) == 15


def test_order_differs_by_epoch_and_seed(sets):
    dataset = PatchDataset(sets, mixed())
    orders = [dataset.order(1), dataset.order(2), PatchDataset(sets, mixed(seed=1)).order(1)]
    assert len({tuple(order) for order in orders}) == 3
    assert PatchDataset(sets, mixed()).order(2) == orders[1]


def test_sets_are_shuffled_into_each_other(sets):
    names = [name for name, _ in patches(PatchDataset(sets, mixed()))]
    assert sum(one != other for one, other in pairwise(names)) > 40


ROBUST_64 = msgspec.structs.replace(ROBUST.train, patch=64, batch=2, mixture=WEIGHTS, patches_per_image=2)


def contents(batches) -> list[tuple[bytes, bytes]]:
    return [(images.numpy().tobytes(), masks.numpy().tobytes()) for images, masks in batches]


def test_batches_do_not_depend_on_the_number_of_workers(sets):
    dataset = PatchDataset(sets, ROBUST_64)
    alone = contents(dataset.batches(1, 2))
    assert len(alone) == 2 * dataset.steps() == 30
    assert contents(dataset.batches(1, 2, workers=2)) == alone


def test_one_iterator_over_epochs_gives_the_batches_of_each(sets):
    dataset = PatchDataset(sets, ROBUST_64)
    each = [contents(dataset.batches(epoch)) for epoch in (2, 3)]
    assert contents(dataset.batches(2, 3)) == each[0] + each[1]
    assert each[0] != each[1]


def test_ranks_share_the_patches_of_one_process(sets):
    recipe = msgspec.structs.replace(ROBUST_64, batch=1)
    whole = contents(PatchDataset(sets, recipe).batches(1))
    shares = [contents(PatchDataset(sets, recipe, rank, 3).batches(1)) for rank in range(3)]
    assert [len(share) for share in shares] == [10] * 3
    assert Counter(patch for share in shares for patch in share) == Counter(whole)
    assert len(set(whole)) > 25  # black images may give equal patches


def test_a_patch_leaves_torchs_random_state_alone(sets):
    dataset = PatchDataset(sets, ROBUST_64)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = dataset[1, 5, 2, 3]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = dataset[1, 5, 2, 3], dataset[1, 6, 2, 3]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


# --- small images ----------------------------------------------------------------------------------------------------


def test_a_small_image_is_mirrored_at_its_edges(make_annotated_image):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    annotated = make_annotated_image("small", image, image[..., 0] > 128)
    dataset = PatchDataset({"a": [annotated]}, plain(patch=256, batch=1, patches_per_image=1, augment=CROP))
    ((images, masks),) = dataset.batches(1)
    row = np.concatenate([image, image[:, ::-1]] * 2, axis=1)
    expected = np.concatenate([row, row[::-1]] * 2, axis=0)
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(masks[0, 0].numpy() > 0, expected[..., 0] > 128)


def run_lengths(values: np.ndarray) -> set[int]:
    """Return the lengths of the runs of equal values, without the first and the last."""
    edges = np.flatnonzero(np.diff(values.astype(int))) + 1
    return set(np.diff(edges).tolist())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 256), (200, 64), (256, 256)])
@pytest.mark.parametrize(("zoom", "run"), [(1.0, 8), (0.5, 4), (2.0, 16)])
def test_no_image_is_stretched(make_annotated_image, height, width, zoom, run):
    """A chequered pattern of 8 px, which mirroring continues: 4 px at the edges."""
    rows, columns = (((np.arange(extent) + 4) // 8 % 2).astype(bool) for extent in (height, width))
    mask = rows[:, None] ^ columns
    annotated = make_annotated_image(
        "chequered", np.where(mask[..., None], 60, 200).repeat(3, 2).astype(np.uint8), mask
    )
    recipe = plain(patch=128, batch=1, patches_per_image=3, augment=augment_only(crop="random", zoom=(zoom, zoom)))
    for images, masks in PatchDataset({"a": [annotated]}, recipe).batches(1):
        for values in (masks[0, 0].numpy() > 0, images[0, 0].numpy() < 130):
            assert run_lengths(values[64]) == run_lengths(values[:, 64]) == {run}


@pytest.mark.parametrize("shape", [(63, 64), (64, 63), (63, 300)])
def test_an_image_of_63_px_is_refused(make_annotated_image, shape):
    annotated = make_annotated_image("narrow", np.zeros((*shape, 3), np.uint8), np.ones(shape, bool))
    message = f"narrow.png is {shape[1]}×{shape[0]} px, smaller than 64 px; remove it"
    for refused in (
        lambda: PatchDataset({"a": [annotated]}, plain(patch=256, augment=CROP)),
        lambda: make_views({"a": [annotated]}, (1.0,)),
    ):
        with pytest.raises(BadInput) as error:
            refused()
        assert str(error.value).endswith(message)


def test_corner_patches_need_images_of_their_size(sets):
    with pytest.raises(BadInput, match=r"is 64×64 px, smaller than 256 px; remove it"):
        PatchDataset(sets, plain(patch=256))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            WEIGHTS | {"lab": 0.1},
            "The recipe's mixture has a weight for lab, but the data sets are a, b, c; "
            "add --data lab=PATH, or remove the weight",
        ),
        (
            {"a": 0.5, "b": 0.5},
            "The recipe's mixture has no weight for the data set c; "
            "add one to train.mixture, or name the set as the recipe does: --data NAME=PATH",
        ),
    ],
)
def test_a_mixture_must_name_the_sets(sets, mixture, message):
    with pytest.raises(BadInput) as error:
        PatchDataset(sets, mixed(mixture=mixture))
    assert str(error.value) == message
