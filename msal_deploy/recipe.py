"""Recipe: a network, its training and its export, as one TOML file. `Recipe()` is the protocol of the paper.

A recipe file lists only the values that differ from the paper's::

    name = "fast"
    [network]
    backbone = "resnet18"
    [train]
    epochs = 40
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from msal_deploy.documents import parse, parse_json, read_toml
from msal_deploy.errors import BadInput, suggest
from msal_deploy.files import StrPath

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
BACKBONES: tuple[str, ...] = get_args(Backbone)
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Degrees = Annotated[float, msgspec.Meta(ge=0, le=180)]
Zoom = Annotated[float, msgspec.Meta(gt=0, le=8)]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


# MSAL-Net first; its paper compares it with the others (Tables 1 and 2), which are in `msal_deploy.zoo`.
Model = Literal[
    "msal-net", "unet-resnet", "linknet", "unet", "ce-net", "attention-unet", "bio-net", "asspu-net", "mdc-net", "cnn3"
]


class NetworkRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network, and for MSAL-Net its backbone and which of the paper's three blocks it has (Table 1).

    Attributes:
        model: ``msal-net``, or a network that its paper compares it with.
        backbone: A torchvision ResNet, for ``msal-net`` and ``unet-resnet``.
        light_decoder: Ours, not the paper's: no convolutions at full resolution and no boundary refinement at half
            resolution, which take half of the time of MSAL-Net with a ResNet-18 on a CPU.
        weights: Initial weights of the encoder: ``imagenet`` (downloaded by torchvision), ``random``, or the path of a
            torchvision ResNet state dict.
    """

    model: Model = "msal-net"
    backbone: Backbone = "resnet34"
    dense_dilated: bool = True
    channel_attention: bool = True
    boundary_refinement: bool = True
    light_decoder: bool = False
    weights: str = "imagenet"

    @property
    def title(self) -> str:
        """The network in a few words, for messages.

        >>> NetworkRecipe(backbone="resnet18", channel_attention=False).title
        'msal-net (resnet18, without channel_attention)'
        """
        if self.model != "msal-net":
            return self.model
        blocks = ("dense_dilated", "channel_attention", "boundary_refinement")
        missing = [block for block in blocks if not getattr(self, block)]
        light = ", light_decoder" if self.light_decoder else ""
        return f"msal-net ({self.backbone}{light}{', without ' + ', '.join(missing) if missing else ''})"


class AugmentRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Random augmentation of a training patch. Geometric changes apply to image and mask alike.

    Attributes:
        crop: ``corners`` uses the paper's four corner patches of each image; ``random`` crops anywhere, and mirrors
            images that are too small for a crop at their edges.
        rotate: Maximum angle in degrees, in either direction.
        shift: Maximum shift as a fraction of the patch side.
        shear: Maximum shear in degrees.
        zoom: Minimum and maximum magnification.
        rot90: Also rotate by a random multiple of 90°.
        stain: Standard deviation of the factor on each channel's optical density; 0 for none.
        hed: Largest relative change of the optical density of haematoxylin, eosin and the residual, each by itself; 0
            for none. If `stain` is set too, each patch gets one of the two changes.
        density: Largest factor on the whole optical density, and its inverse the smallest; 1 for none.
        offset: Largest shift of the optical density of each channel: a light that is not white; 0 for none.
        gamma: Largest exponent of the intensities, and its inverse the smallest; 1 for none.
        grey: Probability of a patch in shades of grey.
        blur: Largest standard deviation of a Gaussian blur in pixels; 0 for none.
        sharpen: Largest factor of a sharpening filter; 1 for none.
        noise: Largest standard deviation of Gaussian noise in grey levels (0 to 255); 0 for none.
        jpeg: Lowest JPEG quality; 100 for none.
        scanner: Probability of each of blur, sharpening, noise and JPEG.
    """

    crop: Literal["corners", "random"] = "corners"
    flip: bool = True
    rotate: Degrees = 15.0
    shift: Fraction = 0.1
    shear: Annotated[float, msgspec.Meta(ge=0, le=80)] = 10.0
    zoom: tuple[Zoom, Zoom] = (1.0, 1.2)
    rot90: bool = False
    stain: Fraction = 0.0
    hed: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    density: Annotated[float, msgspec.Meta(ge=1, le=8)] = 1.0
    offset: Fraction = 0.0
    gamma: Annotated[float, msgspec.Meta(ge=1, le=8)] = 1.0
    grey: Fraction = 0.0
    blur: Annotated[float, msgspec.Meta(ge=0, le=8)] = 0.0
    sharpen: Annotated[float, msgspec.Meta(ge=1, le=8)] = 1.0
    noise: Annotated[float, msgspec.Meta(ge=0, le=64)] = 0.0
    jpeg: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    scanner: Fraction = 0.25

    def __post_init__(self) -> None:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError("Expected zoom as [minimum, maximum]")


class TrainRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The training. Defaults are the paper's: 512 px, Adam 1e-3, decay 3e-5, batch 2, 300 epochs.

    Attributes:
        patch: Side of a training patch in pixels, a multiple of 32, at least 64 (batch norm needs more than one value
            per channel, and 32 px leave one at the deepest level).
        patches_per_image: Patches per image and epoch, if ``crop`` is ``random``.
        rate: Learning rate.
        decay: Weight decay: L2 for ``adam``, decoupled for ``adamw``.
        schedule: Learning rate schedule: ``constant``, or ``cosine`` to zero after a linear ``warmup`` (epochs).
        loss: Binary cross-entropy, or its sum with the soft Dice loss.
        teacher_weight: Weight of the teacher's probabilities in the loss, beside the labels, if there is a teacher: 0
            for the labels alone, 1 for the teacher alone.
        ema: Decay per step of an exponential moving average of the weights, which is validated and saved; 0 for none.
        mixture: Sampling weight of each data set by its name; empty to draw from all images alike.
        validation: Fraction of the training *images* of each data set held out to choose the checkpoint.
        densities: Factors on the optical density of the validation images; each set is scored with each of them.
        validate_every: Epochs between two validations.
        checkpoint_every: Epochs between two writes of the resume state.
        precision: Lightning Fabric's name; ``bf16-mixed`` is much faster on CPUs with AVX512-BF16.
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
    teacher_weight: Fraction = 0.5
    ema: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    mixture: dict[str, Weight] = {}
    validation: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    densities: tuple[Annotated[float, msgspec.Meta(gt=0, le=8)], ...] = (1.0,)
    validate_every: Positive = 1
    checkpoint_every: Positive = 1
    precision: Precision = "32-true"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    augment: AugmentRecipe = AugmentRecipe()

    def __post_init__(self) -> None:
        if self.patch % 32:
            raise ValueError("Expected a patch that is a multiple of 32")
        if not self.densities:
            raise ValueError("Expected at least one factor in densities")

    def __hash__(self) -> int:
        # Written out, because a dict has no hash of its own.
        values = msgspec.structs.asdict(self) | {"mixture": frozenset(self.mixture.items())}
        return hash(tuple(values.values()))


class ExportRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The export.

    Attributes:
        opset: ONNX opset; TensorRT 8.6 reads at most 17.
        tolerance: Maximum |Δ probability| between torch and ONNX Runtime.
    """

    opset: Annotated[int, msgspec.Meta(ge=13, le=23)] = 17
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-4


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network, its training and its export.

    >>> recipe = Recipe.load("fast")
    >>> recipe.network.model, recipe.train.epochs
    ('msal-net', 40)
    """

    name: str = "paper"
    network: NetworkRecipe = NetworkRecipe()
    train: TrainRecipe = TrainRecipe()
    export: ExportRecipe = ExportRecipe()

    @classmethod
    def load(cls, name_or_path: StrPath) -> "Recipe":
        """Return a built-in recipe, or read one from a TOML file.

        >>> Recipe.load("papr")
        Traceback (most recent call last):
        msal_deploy.errors.BadInput: 'papr' is not a recipe or a .toml file; did you mean 'paper'?

        Raises:
            BadInput: The name or file does not exist, the file is not TOML, a key is unknown or a value out of range.
        """
        name = str(name_or_path)
        if name in BUILT_IN:
            return BUILT_IN[name]
        path = Path(name_or_path)
        if path.suffix != ".toml":
            raise BadInput(f"{name!r} is not a recipe or a .toml file", suggest(name, BUILT_IN))
        try:
            values = read_toml(path, "correct the file")
        except FileNotFoundError as error:
            raise BadInput(f"The recipe file {path} does not exist", "check the path") from error
        return parse(lambda: msgspec.convert(values, cls), str(path), "a recipe", "correct the file")

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read the output of `to_json`.

        Raises:
            BadInput: The text is not a recipe.
        """
        return parse_json(text, cls, "The metadata", "a recipe", "name the recipe with --recipe")

    def to_json(self) -> str:
        """Return the whole recipe as one line of JSON, as stored in a checkpoint.

        >>> Recipe.from_json(Recipe().to_json()) == Recipe()
        True
        """
        return msgspec.json.encode(self).decode()


PAPER = Recipe()

# For a CPU, without ImageNet weights: small random crops, strong augmentation, averaged weights.
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

# For slides of other laboratories: three data sets, strong changes of stain and scanner. It trains the shipped weights.
ROBUST = Recipe(
    name="robust",
    network=NetworkRecipe(weights="random"),
    train=TrainRecipe(
        patch=256,
        epochs=100,
        batch=32,
        patches_per_image=8,
        optimizer="adamw",
        decay=1e-2,
        schedule="cosine",
        warmup=3,
        loss="bce+dice",
        ema=0.999,
        mixture={"monuseg": 0.5, "consep": 0.2, "nuinsseg": 0.3},
        densities=(1.0, 0.7, 1.4),
        validate_every=10,
        checkpoint_every=5,
        precision="bf16-mixed",
        augment=AugmentRecipe(
            crop="random",
            rotate=0.0,
            shift=0.0,
            shear=0.0,
            zoom=(0.7, 1.5),
            rot90=True,
            stain=0.25,
            hed=0.4,
            density=1.6,
            offset=0.15,
            gamma=1.5,
            grey=0.05,
            blur=1.5,
            sharpen=4.0,
            noise=12.0,
            jpeg=35,
            scanner=0.25,
        ),
    ),
)

# A smaller network that learns from a larger one: an hour on two cores. See docs/light.md.
LIGHT = Recipe(
    name="light",
    network=NetworkRecipe(backbone="resnet18", light_decoder=True, weights="random"),
    train=msgspec.structs.replace(
        ROBUST.train,
        epochs=30,
        batch=16,
        patches_per_image=1,
        rate=3e-4,
        warmup=1,
        ema=0.99,
        densities=(1.0,),
        validate_every=15,
        checkpoint_every=1,
    ),
)

# Minutes on two cores: enough to try the whole toolchain, not to segment real tissue.
DEMO = Recipe(
    name="demo",
    network=NetworkRecipe(backbone="resnet18", weights="random"),
    train=msgspec.structs.replace(
        FAST.train, epochs=8, batch=4, ema=0.9, warmup=1, validate_every=1, checkpoint_every=1, precision="32-true"
    ),
)

BUILT_IN = {recipe.name: recipe for recipe in (PAPER, ROBUST, FAST, LIGHT, DEMO)}
