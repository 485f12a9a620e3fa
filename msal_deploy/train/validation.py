"""The held-out images during training: each data set by itself, and under other stain densities."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean

import msgspec
import torch
from torch import Tensor, nn

from msal_deploy.data import AnnotatedImage, Patch, corner_patches
from msal_deploy.errors import BadInput
from msal_deploy.metrics import Confusion, confusion, dice, iou, pooled
from msal_deploy.train.augment import change_density
from msal_deploy.train.patch_dataset import check_side

BATCH = 8


class View(msgspec.Struct, frozen=True):
    """Held-out patches of one data set under one stain density.

    Attributes:
        set: Name of the data set.
        density: Factor on the optical density.
        patches: Corner patches of 512 px, or less for smaller images.
    """

    set: str
    density: float
    patches: tuple[Patch, ...]

    @property
    def name(self) -> str:
        """The set, and the factor if it is not 1: ``monuseg``, ``monuseg ×0.7``."""
        return self.set if self.density == 1 else f"{self.set} ×{self.density:g}"


class ViewScore(msgspec.Struct, frozen=True):
    """Scores of a view.

    Attributes:
        view: Name of the view.
        dice: Mean Dice over its patches.
        iou: Mean IoU over its patches.
        worst_stem: The image with the lowest Dice, pooled over its patches.
        worst_dice: Dice of that image.
    """

    view: str
    dice: float
    iou: float
    worst_stem: str
    worst_dice: float


def make_views(sets: Mapping[str, Sequence[AnnotatedImage]], densities: Sequence[float]) -> tuple[View, ...]:
    """Cut the held-out images of each set into patches, and pair them with each density."""
    patches = {name: tuple(patch for image in images for patch in _patches(image)) for name, images in sets.items()}
    return tuple(View(name, density, patches[name]) for name in sets for density in densities)


def require_nuclei(views: Sequence[View]) -> None:
    """Raise `BadInput` if a view has none: a network that finds no nuclei would be the best."""
    for view in views:
        if not any(patch.mask.any() for patch in view.patches):
            stems = ", ".join(dict.fromkeys(patch.stem for patch in view.patches))
            raise BadInput(f"The validation images of {view.set} have no nuclei ({stems})", "add images with nuclei")


def _patches(annotated: AnnotatedImage) -> tuple[Patch, ...]:
    check_side(annotated)
    # 512 px as in the test, or less for smaller images.
    side = min(512, *(extent // 32 * 32 for extent in annotated.size()))
    # Only pixels are scored here, and instances would double the memory.
    return tuple(msgspec.structs.replace(patch, instances=None) for patch in corner_patches(annotated, side))


def score_view(network: nn.Module, view: View, device: torch.device) -> ViewScore:
    """Score a network: float[N,3,H,W] of intensities 0…255 -> logits float[N,1,H,W], in evaluation mode."""
    counts: list[Confusion] = []
    for patches in _batches(view.patches):
        masks = _predict(network, patches, view.density, device)
        counts += [confusion(patch.mask, mask) for patch, mask in zip(patches, masks.numpy(), strict=True)]
    by_image: dict[str, list[Confusion]] = defaultdict(list)
    for patch, count in zip(view.patches, counts, strict=True):
        by_image[patch.stem].append(count)
    dice_of = {stem: dice(pooled(image)) for stem, image in by_image.items()}
    worst = min(dice_of, key=lambda stem: dice_of[stem])
    return ViewScore(view.name, fmean(map(dice, counts)), fmean(map(iou, counts)), worst, dice_of[worst])


@torch.no_grad()
def _predict(network: nn.Module, patches: Sequence[Patch], density: float, device: torch.device) -> Tensor:
    images = torch.stack([torch.from_numpy(patch.image) for patch in patches]).to(device).permute(0, 3, 1, 2)
    if density != 1:
        images = change_density(images, density * torch.eye(3))
    logits: Tensor = network(images.float().contiguous(memory_format=torch.channels_last))
    return (logits[:, 0] >= 0).cpu()


def _batches(patches: Sequence[Patch]) -> Iterator[list[Patch]]:
    """Yield up to `BATCH` consecutive patches of the same size."""
    for _, group in groupby(patches, key=lambda patch: patch.mask.shape):
        same = list(group)
        yield from (same[start : start + BATCH] for start in range(0, len(same), BATCH))
