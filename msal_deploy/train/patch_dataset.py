"""The training images in memory, cut into augmented patches."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from msal_deploy.data import AnnotatedImage, corner_patches
from msal_deploy.errors import BadInput
from msal_deploy.recipe import TrainRecipe
from msal_deploy.train.augment import augmentation, random_crop


class PatchDataset:
    """The augmented patches of the training images::

        for images, masks in PatchDataset(dataset.train, recipe.train, torch.device("cpu")).epoch(1): ...

    All images stay on `device`: MoNuSeg's 30 training images need 120 MB.

    Args:
        images: Training images.
        recipe: Patch size, batch size, cropping and augmentation.
        device: Where patches are cut and augmented.
        rank: Index of this process.
        world: Number of processes; each takes an equal share of every epoch.

    Raises:
        BadInput: An image is smaller than a patch, or there are fewer patches than processes.
    """

    def __init__(
        self, images: Sequence[AnnotatedImage], recipe: TrainRecipe, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        self.recipe, self.rank, self.world = recipe, rank, world
        self.augment = augmentation(recipe)
        self.sources = [source for annotated in images for source in self._sources(annotated, device)]
        self.repeats = recipe.patches_per_image if recipe.augment.crop == "random" else 1
        if len(self.sources) * self.repeats < world:
            patches = len(self.sources) * self.repeats
            raise BadInput(f"{patches} patches per epoch are too few for {world} devices", "use fewer --devices")

    def _sources(
        self, annotated: AnnotatedImage, device: torch.device
    ) -> Iterator[tuple[tv_tensors.Image, tv_tensors.Mask]]:
        if self.recipe.augment.crop == "corners":
            for patch in corner_patches(annotated, self.recipe.patch):
                yield as_tensors(patch.image, patch.mask, device)
        else:
            image, mask = annotated.image(), annotated.mask()
            if min(mask.shape) < self.recipe.patch:
                raise BadInput(f"{annotated.image_path} is smaller than a patch of {self.recipe.patch} px", "remove it")
            yield as_tensors(image, mask, device)

    def steps(self) -> int:
        """Return the number of batches per epoch and process; an incomplete last batch is dropped for batch norm."""
        return max(1, len(self.sources) * self.repeats // (self.recipe.batch * self.world))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch as images uint8[B,3,P,P] and masks float32[B,1,P,P].

        The same `number` always gives the same batches.
        """
        # All processes shuffle with the same seed; each has its own seed for the augmentation.
        torch.manual_seed(self.recipe.seed * 1_000_003 + number)
        order = torch.randperm(len(self.sources) * self.repeats)[self.rank :: self.world]
        torch.manual_seed((self.recipe.seed * 1_000_003 + number) * 1_009 + self.rank + 1)
        for step in range(self.steps()):
            batch = order[step * self.recipe.batch : (step + 1) * self.recipe.batch]
            pairs = [self._patch(int(index) % len(self.sources)) for index in batch]
            images, masks = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
            yield images, masks.float()

    def _patch(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.sources[index]
        if self.recipe.augment.crop == "random":
            image, mask = random_crop(self.recipe, image, mask)
        image, mask = self.augment(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def as_tensors(
    image: np.ndarray, mask: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Return uint8[H,W,3] and bool[H,W] as Image uint8[3,H,W] and Mask uint8[1,H,W] on `device`."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device)
    truth = torch.from_numpy(np.ascontiguousarray(mask[None].astype(np.uint8))).to(device)
    return tv_tensors.Image(pixels), tv_tensors.Mask(truth)
