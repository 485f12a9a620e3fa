"""The training images in memory, cut into augmented patches on the CPU, by worker processes if there are any."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from msal_deploy.data import AnnotatedImage, corner_patches
from msal_deploy.errors import BadInput
from msal_deploy.recipe import TrainRecipe
from msal_deploy.train.augment import augmentation, largest_crop, random_crop

MIN_SIDE = 64  # px; a smaller image is mostly mirrored edges

Batch = tuple[Tensor, Tensor]  # images uint8[B,3,P,P] and masks uint8[B,1,P,P]


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """The augmented patches of the training images::

        for images, masks in PatchDataset({"monuseg": dataset.train}, recipe.train).batches(1): ...

    An epoch has as many patches as all images together have (`patches_per_image`, or corners). ``recipe.mixture`` says
    which part of them comes from which data set; within a set, each image is drawn equally often. The seed of a patch
    is that of the recipe, its epoch and its position in it, so batches do not depend on the number of workers.

    All images stay in memory: MoNuSeg's 30 training images need 120 MB.

    Args:
        sets: Training images of each data set, by its name.
        recipe: Patch size, batch size, mixture, cropping and augmentation.
        rank: Index of this process.
        world: Number of processes; each takes an equal share of every epoch.

    Raises:
        BadInput: An image is too small, the mixture does not name the sets, or there are fewer patches than processes.
    """

    def __init__(
        self, sets: Mapping[str, Sequence[AnnotatedImage]], recipe: TrainRecipe, rank: int = 0, world: int = 1
    ) -> None:
        check_mixture(recipe, sets)
        self.recipe, self.rank, self.world = recipe, rank, world
        self.augment = augmentation(recipe)
        self.images_of = sets
        self.sources = [[source for image in images for source in self._sources(image)] for images in sets.values()]
        if self.patches() < world:
            raise BadInput(f"{self.patches()} patches per epoch are too few for {world} devices", "use fewer --devices")

    def _sources(self, annotated: AnnotatedImage) -> Iterator[tuple[tv_tensors.Image, tv_tensors.Mask]]:
        if self.recipe.augment.crop == "corners":
            check_side(annotated, self.recipe.patch)
            for patch in corner_patches(annotated, self.recipe.patch):
                yield as_tensors(patch.image, patch.mask)
        else:
            check_side(annotated)
            image, mask = annotated.image(), annotated.mask()
            side = largest_crop(self.recipe)
            yield as_tensors(_mirrored(image, side), _mirrored(mask, side))

    def patches(self) -> int:
        """Return the number of patches per epoch, of all processes together."""
        repeats = self.recipe.patches_per_image if self.recipe.augment.crop == "random" else 1
        return repeats * sum(map(len, self.sources))

    def steps(self) -> int:
        """Return the number of batches per epoch and process; an incomplete last batch is dropped for batch norm."""
        return max(1, self.patches() // (self.recipe.batch * self.world))

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """Return the set and the image of each patch of an epoch. The same `epoch` always gives the same order."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        drawn = [
            (index, image)
            for index, count in enumerate(self._counts())
            for image in _cycle(len(self.sources[index]), count, generator)
        ]
        return [drawn[position] for position in torch.randperm(len(drawn), generator=generator).tolist()]

    def _counts(self) -> list[int]:
        """Return the number of patches of each set per epoch: the mixture's shares, rounded to their sum."""
        weights = [
            self.recipe.mixture.get(name, len(images))
            for name, images in zip(self.images_of, self.sources, strict=True)
        ]
        edges = [round(edge / sum(weights) * self.patches()) for edge in accumulate(weights, initial=0.0)]
        return [end - start for start, end in pairwise(edges)]

    def __getitem__(self, patch: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
        """Return the patch of (epoch, position in it, set, image) as uint8[3,P,P] and uint8[1,P,P]."""
        epoch, position, index, number = patch
        image, mask = self.sources[index][number]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which also seeds every GPU and takes as long as the crop.
            torch.default_generator.manual_seed(((self.recipe.seed * 1_000_003 + epoch) * 1_000_003 + position) % 2**63)
            if self.recipe.augment.crop == "random":
                image, mask = random_crop(self.recipe, image, mask)
            image, mask = self.augment(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)

    def batches(self, first: int, last: int | None = None, *, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        """Yield the batches of the epochs from `first` to `last`, which is `first` by default.

        Args:
            workers: Number of processes that prepare batches ahead; 0 to prepare them in this process.
            pin: Put batches into page-locked memory, from which a GPU copies faster.
        """
        loader: DataLoader[Batch] = DataLoader(
            self,
            batch_sampler=_Batches(self, first, last or first),
            num_workers=workers,
            pin_memory=pin,
            # A forked worker shares the images with this process; a spawned one would copy them.
            multiprocessing_context="fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None,
            prefetch_factor=4 if workers else None,
        )
        yield from loader


class _Batches:
    """The indices of the patches of each batch of this process, over several epochs."""

    def __init__(self, dataset: PatchDataset, first: int, last: int) -> None:
        self.dataset, self.epochs = dataset, range(first, last + 1)

    def __len__(self) -> int:
        return len(self.epochs) * self.dataset.steps()

    def __iter__(self) -> Iterator[list[tuple[int, int, int, int]]]:
        size = self.dataset.recipe.batch
        for epoch in self.epochs:
            patches = [(epoch, position, *source) for position, source in enumerate(self.dataset.order(epoch))]
            mine = patches[self.dataset.rank :: self.dataset.world]
            for step in range(self.dataset.steps()):
                yield mine[step * size : (step + 1) * size]


def check_side(annotated: AnnotatedImage, least: int = MIN_SIDE) -> None:
    """Raise `BadInput` if an image is lower or narrower than `least` pixels."""
    height, width = annotated.size()
    if min(height, width) < least:
        raise BadInput(f"{annotated.image_path} is {width}×{height} px, smaller than {least} px", "remove it")


def check_mixture(recipe: TrainRecipe, names: Mapping[str, Any]) -> None:
    """Raise `BadInput` unless the mixture is empty or has a weight for each data set and for no other."""
    if not recipe.mixture:
        return
    if absent := sorted(set(recipe.mixture) - set(names)):
        cause = f"The recipe's mixture has a weight for {', '.join(absent)}, but the data sets are {', '.join(names)}"
        raise BadInput(cause, f"add --data {absent[0]}=PATH, or remove the weight")
    if unweighted := sorted(set(names) - set(recipe.mixture)):
        cause = f"The recipe's mixture has no weight for the data set {', '.join(unweighted)}"
        raise BadInput(cause, "add one to train.mixture, or name the set as the recipe does: --data NAME=PATH")


def _cycle(images: int, count: int, generator: torch.Generator) -> list[int]:
    """Return `count` indices below `images`, each equally often, in shuffled rounds."""
    rounds = [torch.randperm(images, generator=generator) for _ in range(-(-count // images))]
    return torch.cat(rounds)[:count].tolist() if rounds else []


def _mirrored(values: np.ndarray, side: int) -> np.ndarray:
    """Extend an array to at least `side` pixels in height and width by mirroring it at its bottom and right edges."""
    missing = [(0, max(0, side - extent)) for extent in values.shape[:2]]
    return np.pad(values, [*missing, *[(0, 0)] * (values.ndim - 2)], mode="symmetric")


def as_tensors(image: np.ndarray, mask: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Return uint8[H,W,3] and bool[H,W] as Image uint8[3,H,W] and Mask uint8[1,H,W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    truth = torch.from_numpy(np.ascontiguousarray(mask[None].astype(np.uint8)))
    return tv_tensors.Image(pixels), tv_tensors.Mask(truth)
