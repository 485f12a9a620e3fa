"""Training samples: a whole data set in memory, cut into augmented patches."""

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
    """The patches of the training images. MoNuSeg's 30 images are 120 MB, so all of them stay on `device`.

    Args:
        cases: training images.
        recipe: patch size, batch, cropping and augmentation.
        device: where patches are cut and augmented.
        rank, world: which share of every epoch this process takes.
    """

    def __init__(
        self, cases: Sequence[AnnotatedImage], recipe: TrainRecipe, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        self.recipe, self.rank, self.world = recipe, rank, world
        self.augment = augmentation(recipe)
        self.sources = [source for case in cases for source in self._sources(case, device)]
        self.repeats = recipe.patches_per_image if recipe.augment.crop == "random" else 1
        if len(self.sources) * self.repeats < world:
            raise BadInput(f"{len(self.sources) * self.repeats} patches an epoch are too few for {world} devices")

    def _sources(
        self, case: AnnotatedImage, device: torch.device
    ) -> Iterator[tuple[tv_tensors.Image, tv_tensors.Mask]]:
        if self.recipe.augment.crop == "corners":
            for patch in corner_patches(case, self.recipe.patch):
                yield as_tensors(patch.image, patch.mask, device)
        else:
            image, mask = case.image(), case.mask()
            if min(mask.shape) < self.recipe.patch:
                raise BadInput(f"{case.image_path} is smaller than a patch of {self.recipe.patch} px; remove it")
            yield as_tensors(image, mask, device)

    def steps(self) -> int:
        """Batches an epoch, in this process; an incomplete last one is dropped for the sake of batch norm."""
        return max(1, len(self.sources) * self.repeats // (self.recipe.batch * self.world))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches uint8[B,3,P,P] and float32[B,1,P,P]. The same number gives the same batches."""
        # BuildRequest by one seed for all processes; augmentation by one of its own for each.
        torch.manual_seed(self.recipe.seed * 1_000_003 + number)
        order = torch.randperm(len(self.sources) * self.repeats)[self.rank :: self.world]
        torch.manual_seed((self.recipe.seed * 1_000_003 + number) * 1_009 + self.rank + 1)
        for step in range(self.steps()):
            chosen = order[step * self.recipe.batch : (step + 1) * self.recipe.batch]
            pairs = [self._patch(int(index) % len(self.sources)) for index in chosen]
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
