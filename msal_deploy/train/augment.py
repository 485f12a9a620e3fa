"""Random augmentation of training patches with torchvision; image and mask are transformed together.

All random numbers come from torch's global CPU generator: seeding it before a patch determines the patch.
The order is that of the physics: the tissue's position, its stains, the light, the optics, the sensor, the file format.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from msal_deploy.recipe import AugmentRecipe, TrainRecipe

WHITE = 255  # fill value outside the image: glass without tissue

# Optical densities of haematoxylin, eosin and DAB in red, green and blue, normalised to length 1: Ruifrok and Johnston,
# Analytical and Quantitative Cytology and Histology 2001, as in skimage.color.rgb2hed. The third takes up the residual.
STAINS = torch.nn.functional.normalize(
    torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]), dim=1
)


class StainJitter(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Change the optical density of a patch, −ln((I + 1) / 256), to imitate other stains and another light.

    The three channels of the density are multiplied by a random 3×3 matrix (of the channels or of the stains), and
    shifted. Images are uint8[3,H,W]; masks pass unchanged.

    Args:
        augment: Its values `stain`, `hed`, `density` and `offset`.
    """

    def __init__(self, augment: AugmentRecipe) -> None:
        super().__init__()
        self.augment = augment

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the matrix float[3,3] and the shift float[3,1,1]."""
        augment = self.augment
        by_stain = augment.hed and not (augment.stain and torch.rand(()) < 0.5)
        matrix = _stain_matrix(augment.hed) if by_stain else _channel_matrix(augment.stain)
        shift = augment.offset * (_uniform(3) + _uniform(1)) / 2
        return {"matrix": matrix * log_uniform(augment.density), "shift": shift.view(3, 1, 1)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the matrix and the shift to an image; return masks unchanged."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        changed = change_density(inpt.as_subclass(Tensor), params["matrix"], params["shift"])
        return tv_tensors.wrap(changed, like=inpt)


def _channel_matrix(deviation: float) -> Tensor:
    factors = 1 + deviation * torch.randn(4)
    return torch.diag((factors[0] * factors[1:]).clamp(min=0.2))


def _stain_matrix(largest: float) -> Tensor:
    """Return the change of the channels' densities when the amount of each stain is multiplied by its own factor."""
    factors = 1 + largest * _uniform(3)
    changed: Tensor = STAINS.T @ torch.diag(factors) @ torch.linalg.inv(STAINS.T)
    return changed


def _uniform(count: int) -> Tensor:
    return 2 * torch.rand(count) - 1


def log_uniform(largest: float) -> float:
    """Return a random factor from 1 / `largest` to `largest`, whose logarithm is uniform."""
    return math.exp(math.log(largest) * float(_uniform(1)))


def change_density(image: Tensor, matrix: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Multiply the optical density of uint8[…,3,H,W] by `matrix` and add `shift`; return uint8[…,3,H,W].

    >>> halved = change_density(torch.full((3, 1, 1), 63, dtype=torch.uint8), 0.5 * torch.eye(3))
    >>> halved.flatten().tolist()  # a quarter of the light becomes a half of it
    [127, 127, 127]
    """
    density = -((image.float() + 1) / 256).log()
    changed = torch.einsum("ij,...jhw->...ihw", matrix.to(image.device), density) + shift
    return (256 * (-changed).exp() - 1).round().clamp(0, 255).to(torch.uint8)


class Scanner(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Apply gamma, grey, blur, sharpening, noise and JPEG, as the recipe says. Masks pass unchanged.

    Each is torchvision's own function; its classes have no random strength for gamma, sharpening and noise.
    """

    def __init__(self, augment: AugmentRecipe) -> None:
        super().__init__()
        self.augment = augment

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the strength of each change; None leaves it out. The number of random draws is always the same."""
        augment, chance, strength = self.augment, torch.rand(5), torch.rand(4)
        applies = (chance < torch.tensor([augment.grey, *[augment.scanner] * 4])).tolist()
        blur, sharpen, noise, jpeg = strength.tolist()
        return {
            "gamma": log_uniform(augment.gamma),
            "grey": applies[0],
            "blur": augment.blur * blur if applies[1] and augment.blur * blur > 0.1 else None,
            "sharpen": 1 + (augment.sharpen - 1) * sharpen if applies[2] and augment.sharpen > 1 else None,
            "noise": augment.noise * noise / 255 if applies[3] and augment.noise else None,
            "jpeg": round(augment.jpeg + (100 - augment.jpeg) * jpeg) if applies[4] and augment.jpeg < 100 else None,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the changes to an image; return masks unchanged."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = inpt.as_subclass(Tensor)
        if params["gamma"] != 1:
            image = v2.functional.adjust_gamma(image, params["gamma"])
        if params["grey"]:
            image = v2.functional.rgb_to_grayscale(image, num_output_channels=3)
        if params["blur"]:
            image = v2.functional.gaussian_blur(
                image, [2 * math.ceil(2 * params["blur"]) + 1] * 2, [params["blur"]] * 2
            )
        if params["sharpen"]:
            image = v2.functional.adjust_sharpness(image, params["sharpen"])
        if params["noise"]:
            # In float: torchvision before 0.24 adds no noise to bytes.
            light = v2.functional.to_dtype(image, torch.float32, scale=True)
            noisy = v2.functional.gaussian_noise(light, sigma=params["noise"])
            image = v2.functional.to_dtype(noisy, torch.uint8, scale=True)
        if params["jpeg"]:
            image = v2.functional.jpeg(image, params["jpeg"])
        return tv_tensors.wrap(image, like=inpt)


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
    if augment.stain or augment.hed or augment.offset or augment.density > 1:
        steps.append(StainJitter(augment))
    if augment.gamma > 1 or augment.grey or augment.blur or augment.sharpen > 1 or augment.noise or augment.jpeg < 100:
        steps.append(Scanner(augment))
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
        image: uint8[3,H,W], at least `largest_crop` pixels high and wide.
        mask: uint8[1,H,W].
    """
    smallest, largest = recipe.augment.zoom
    zoom = smallest + (largest - smallest) * float(torch.rand(()))
    side = round(recipe.patch / zoom)
    top, left = (int(torch.randint(0, extent - side + 1, ())) for extent in image.shape[-2:])
    pixels = image.as_subclass(Tensor)[:, top : top + side, left : left + side]
    truth = mask.as_subclass(Tensor)[:, top : top + side, left : left + side]
    size, exact = [recipe.patch, recipe.patch], v2.InterpolationMode.NEAREST_EXACT
    return (
        tv_tensors.Image(v2.functional.resize(pixels, size, antialias=True)),
        tv_tensors.Mask(v2.functional.resize(truth, size, interpolation=exact)),
    )


def largest_crop(recipe: TrainRecipe) -> int:
    """Return the side in pixels of the largest square that `random_crop` cuts."""
    return round(recipe.patch / recipe.augment.zoom[0])
