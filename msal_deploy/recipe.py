"""Recipe: what to train and export, as one TOML file. `Recipe()` is the paper's protocol.

A recipe file names only what it changes::

    name = "fast"
    [network]
    backbone = "resnet18"
    [train]
    epochs = 40
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from msal_deploy.errors import BadInput, suggest

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Degrees = Annotated[float, msgspec.Meta(ge=0, le=180)]
Zoom = Annotated[float, msgspec.Meta(gt=0, le=8)]


# msal-net first; the rest are what its paper compares it with (Tables 1 and 2), in `msal_deploy.zoo`.
Model = Literal[
    "msal-net", "unet-resnet", "linknet", "unet", "ce-net", "attention-unet", "bio-net", "asspu-net", "mdc-net", "cnn3"
]


class NetworkRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which network; of MSAL-Net the backbone, and each of the paper's three blocks on or off (Table 1).

    Attributes:
        model: ``msal-net``, or a network that its paper compares it with.
        backbone: a torchvision ResNet, for the models that have one: ``msal-net`` and ``unet-resnet``.
        weights: where the encoder starts from: ``imagenet`` (downloaded by torchvision), ``random``, or the path of a
            torchvision ResNet state dict.
    """

    model: Model = "msal-net"
    backbone: Backbone = "resnet34"
    dense_dilated: bool = True
    channel_attention: bool = True
    boundary_refinement: bool = True
    weights: str = "imagenet"


class AugmentRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Random changes of a training patch; the geometric ones move image and mask together.

    Attributes:
        crop: ``corners`` takes the paper's four corner patches of each image; ``random`` crops anywhere.
        rotate: largest angle in degrees, either way.
        shift: largest shift as a fraction of the patch side.
        shear: largest shear in degrees.
        zoom: smallest and largest magnification.
        rot90: also rotate by a random multiple of 90°.
        stain: standard deviation of the factor by which each channel's optical density is scaled, 0 for none.
    """

    crop: Literal["corners", "random"] = "corners"
    flip: bool = True
    rotate: Degrees = 15.0
    shift: Fraction = 0.1
    shear: Annotated[float, msgspec.Meta(ge=0, le=80)] = 10.0
    zoom: tuple[Zoom, Zoom] = (1.0, 1.2)
    rot90: bool = False
    stain: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError("zoom is the smallest and then the largest magnification")


class TrainRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to train. The defaults are the paper's: 512 px, Adam 1e-3, decay 3e-5, batch 2, 300 epochs.

    Attributes:
        patch: side of a training patch in pixels, a multiple of 32, at least 64 (of 32, one value a channel is left
            at the bottom, of which batch norm can make nothing).
        patches_per_image: how many patches one epoch takes of each image, where ``crop`` is ``random``.
        decay: L2 for ``adam``, decoupled for ``adamw``.
        schedule: of the rate: ``constant``, or ``cosine`` to zero after a linear ``warmup`` (epochs).
        loss: binary cross-entropy, or its sum with the soft Dice loss.
        ema: decay of an exponential moving average of the weights a step, used for validation and kept; 0 for none.
        validation: share of the training *images* held out to choose the checkpoint.
        checkpoint_every: epochs between two writes of the resume state.
        precision: Lightning Fabric's name; ``bf16-mixed`` is much the faster on a CPU with AVX512-BF16.
    """

    patch: Annotated[int, msgspec.Meta(ge=64)] = 512
    epochs: Positive = 300
    batch: Positive = 2
    patches_per_image: Positive = 4
    optimizer: Literal["adam", "adamw"] = "adam"
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3
    decay: Fraction = 3e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 0
    loss: Literal["bce", "bce+dice"] = "bce"
    ema: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    validation: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    validate_every: Positive = 1
    checkpoint_every: Positive = 1
    precision: Precision = "32-true"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    augment: AugmentRecipe = AugmentRecipe()

    def __post_init__(self) -> None:
        if self.patch % 32:
            raise ValueError("patch must be a multiple of 32")


class ExportRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to export: the opset (TensorRT 8.6 reads at most 17) and the largest |Δp| that torch and ONNX may show."""

    opset: Annotated[int, msgspec.Meta(ge=13, le=23)] = 17
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-4


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network, how to train it and how to export it."""

    name: str = "paper"
    network: NetworkRecipe = NetworkRecipe()
    train: TrainRecipe = TrainRecipe()
    export: ExportRecipe = ExportRecipe()

    @classmethod
    def load(cls, name_or_path: str) -> "Recipe":
        """Return a built-in recipe by its name, or the one in a TOML file.

        Raises:
            BadInput: no such name or file, no TOML, an unknown key or a value out of range.
        """
        if name_or_path in BUILT_IN:
            return BUILT_IN[name_or_path]
        path = Path(name_or_path)
        if path.suffix != ".toml":
            raise BadInput(
                f"No recipe is called {name_or_path!r} and it is no .toml file; {suggest(name_or_path, BUILT_IN)}"
            )
        try:
            return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), cls)
        except FileNotFoundError as error:
            raise BadInput(f"There is no recipe file {path}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is not valid TOML: {error}") from error
        except msgspec.ValidationError as error:
            raise BadInput(f"{path} is no recipe: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote.

        Raises:
            BadInput: the text is no recipe.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise BadInput(f"This is no recipe of msal-deploy: {error}") from error

    def to_json(self) -> str:
        """Return the whole recipe as one line of JSON, as a checkpoint carries it."""
        return msgspec.json.encode(self).decode()


PAPER = Recipe()

# For a CPU and no ImageNet weights: small crops from anywhere, strong augmentation, averaged weights.
FAST = Recipe(
    name="fast",
    network=NetworkRecipe(weights="random"),
    train=TrainRecipe(
        patch=256,
        epochs=40,
        batch=8,
        patches_per_image=8,
        optimizer="adamw",
        decay=1e-2,
        schedule="cosine",
        warmup=2,
        loss="bce+dice",
        ema=0.99,
        validate_every=2,
        checkpoint_every=5,
        precision="bf16-mixed",
        augment=AugmentRecipe(crop="random", rotate=0.0, shift=0.0, shear=0.0, zoom=(0.8, 1.25), rot90=True, stain=0.2),
    ),
)

# Minutes on two cores: enough to see the whole toolchain work, not to segment real tissue.
DEMO = Recipe(
    name="demo",
    network=NetworkRecipe(backbone="resnet18", weights="random"),
    train=msgspec.structs.replace(
        FAST.train, epochs=8, batch=4, ema=0.9, warmup=1, validate_every=1, checkpoint_every=1, precision="32-true"
    ),
)

BUILT_IN = {recipe.name: recipe for recipe in (PAPER, FAST, DEMO)}
