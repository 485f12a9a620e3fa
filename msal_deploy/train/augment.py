"""Random augmentation of training patches with torchvision; image and mask are transformed together.

All random numbers come from torch's global CPU generator, also for images on a GPU. Seeding it at the start of an epoch
therefore determines the whole epoch, which makes resuming exact.
"""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from msal_deploy.recipe import TrainRecipe

WHITE = 255  # fill value outside the image: glass without tissue


class StainJitter(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Scale the optical density of each channel, −ln((I + 1) / 256), by a random factor, to imitate stain variation.

    Images are uint8[3,H,W]; masks pass unchanged.

    Args:
        deviation: Standard deviation of the factors, whose mean is 1.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return one random factor per channel, each multiplied by a common random factor."""
        factors = 1 + self.deviation * torch.randn(4)
        return {"factors": (factors[0] * factors[1:]).clamp(min=0.2).view(3, 1, 1)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the factors to an image; return masks unchanged."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        transmitted = (inpt.as_subclass(Tensor).float() + 1) / 256
        stained = 256 * transmitted ** params["factors"].to(inpt.device) - 1
        return tv_tensors.wrap(stained.round().clamp(0, 255).to(torch.uint8), like=inpt)


def augmentation(recipe: TrainRecipe) -> v2.Compose:
    """Return the recipe's augmentation, without its cropping.

    The transform takes and returns (Image uint8[3,H,W], Mask uint8[1,H,W])::

        image, mask = augmentation(recipe)(image, mask)
    """
    augment = recipe.augment
    steps: list[Any] = []
    if augment.flip:
        steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    if augment.rot90:
        steps.append(v2.RandomApply([v2.RandomRotation((90, 90))]))  # together with both flips: all eight symmetries
    if augment.rotate or augment.shift or augment.shear or (augment.crop == "corners" and augment.zoom != (1.0, 1.0)):
        steps.append(_affine(recipe))
    if augment.stain:
        steps.append(StainJitter(augment.stain))
    return v2.Compose(steps or [v2.Identity()])


def _affine(recipe: TrainRecipe) -> v2.RandomAffine:
    augment = recipe.augment
    return v2.RandomAffine(
        degrees=augment.rotate,
        translate=(augment.shift, augment.shift),
        # Random crops are zoomed by random_crop, which leaves no empty margin.
        scale=augment.zoom if augment.crop == "corners" else None,
        shear=(-augment.shear, augment.shear, -augment.shear, augment.shear),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill={tv_tensors.Image: WHITE, "others": 0},
    )


def random_crop(
    recipe: TrainRecipe, image: tv_tensors.Image, mask: tv_tensors.Mask
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Cut a random square and magnify it by a random factor from ``augment.zoom`` to ``patch`` pixels.

    `v2.RandomResizedCrop` is not used, because its ``nearest`` resizing shifts masks by half a pixel relative to the
    image.

    Args:
        recipe: Its ``patch`` is the side of the result in pixels.
        image: uint8[3,H,W].
        mask: uint8[1,H,W].
    """
    smallest, largest = recipe.augment.zoom
    zoom = smallest + (largest - smallest) * float(torch.rand(()))
    side = min(round(recipe.patch / zoom), *image.shape[-2:])
    top, left = (int(torch.randint(0, extent - side + 1, ())) for extent in image.shape[-2:])
    pixels = image.as_subclass(Tensor)[:, top : top + side, left : left + side]
    truth = mask.as_subclass(Tensor)[:, top : top + side, left : left + side]
    size, exact = [recipe.patch, recipe.patch], v2.InterpolationMode.NEAREST_EXACT
    return (
        tv_tensors.Image(v2.functional.resize(pixels, size, antialias=True)),
        tv_tensors.Mask(v2.functional.resize(truth, size, interpolation=exact)),
    )
