"""Options that several commands share."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.errors import BadInput, suggest

if TYPE_CHECKING:
    from msal_deploy.checkpoint import Checkpoint
    from msal_deploy.recipe import Recipe

BundlePath = Annotated[Path, typer.Argument(help="A bundle written by export.", show_default=False)]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        "-e",
        help="An engine such as openvino:int8; repeatable. "
        "Default: every engine installed on this machine that the bundle has a graph for.",
    ),
]


def finite(value: float | None) -> float | None:
    """Refuse NaN and infinity, which pass every other check of a number.

    Raises:
        BadInput: `value` is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise BadInput(f"{value} is not a finite number", "give a number")
    return value


def output(path: Path | None) -> Path | None:
    """Check a file that is written at the end, before minutes of work.

    Raises:
        BadInput: It is a folder, a device or a FIFO, or cannot be written.
    """
    from msal_deploy.files import output_file

    if path is not None:
        output_file(path)
    return path


PLOT_FORMATS = (".png", ".svg", ".pdf")


def plot_file(path: Path | None) -> Path | None:
    """Check the file of a plot, before minutes of work.

    Raises:
        BadInput: Its suffix is not that of a picture, or it cannot be written.
    """
    if path is not None and path.suffix.lower() not in PLOT_FORMATS:
        raise BadInput(f"{path.name} is not a supported image file", f"use the suffix {', '.join(PLOT_FORMATS)}")
    return output(path)


def lock_output(context: typer.Context, out: Path) -> None:
    """Check the folder that a command adds its results to, and hold its lock until the command ends.

    Raises:
        BadInput: It is not a folder, or cannot be written, or another command is writing to it.
    """
    from msal_deploy.files import output_folder, output_lock

    output_folder(out)
    context.with_resource(output_lock(out))


Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the report as JSON to this file.", callback=output)
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Also draw the results into this .png, .svg or .pdf file.", callback=plot_file),
]
LabelFolder = Annotated[
    str | None,
    typer.Option("--labels", metavar="NAME", help="The folder of label maps to use, where an image has several."),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", "-r", help="A recipe: paper, robust, fast, demo, or a TOML file.")
]
Encoder = Annotated[
    str | None,
    typer.Option(help="Initial encoder weights: imagenet, random, or a torchvision ResNet's state dict."),
]
Epochs = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Number of epochs. Default: the recipe's.")]
Split = Annotated[
    float | None,
    typer.Option(
        "--split",
        min=0.01,
        max=0.9,
        callback=finite,
        help="Share of the images to test on, if no folder is named train or test: the same images in every command.",
    ),
]
Budget = Annotated[float, typer.Option(min=0, callback=finite, help="Largest acceptable loss of mean Dice.")]
WorstImage = Annotated[
    float, typer.Option(min=0, callback=finite, help="Largest acceptable loss of Dice of a single image.")
]
AjiBudget = Annotated[
    float | None,
    typer.Option(min=0, callback=finite, help="Largest acceptable loss of mean AJI. Default: AJI is reported only."),
]
PqBudget = Annotated[
    float | None,
    typer.Option(min=0, callback=finite, help="Largest acceptable loss of mean PQ. Default: PQ is reported only."),
]
Seconds = Annotated[
    float, typer.Option(min=0.001, max=3600, callback=finite, help="Length of a benchmark time window in seconds.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: the runtime's choice.")]


def is_number(text: str) -> bool:
    """Return whether `text` is a number that a size or a batch may have: 1 to 9 decimal digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 9


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size in pixels: a side or HEIGHTxWIDTH.

    >>> parse_size("512"), parse_size("768x512")
    ((512, 512), (768, 512))

    Raises:
        BadInput: `text` is not a size.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(is_number(part) for part in parts):
        raise BadInput(f"{text!r} is not a size", "use 512, or 768x512 for height x width")
    return int(parts[0]), int(parts[-1])


def read_checkpoint(path: Path, recipe: "Recipe | None" = None) -> "Checkpoint":
    """Read weights, and say on stderr what was taken from a file of another program and what was left out."""
    from msal_deploy.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, recipe)
    for remark in checkpoint.remarks:
        typer.echo(remark, err=True)
    return checkpoint


def choose_recipe(
    name: "str | Recipe",
    encoder: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    backbone: str | None = None,
    rate: float | None = None,
) -> "Recipe":
    """Load the recipe `name`, unless it is one already, and apply the other options to it.

    >>> choose_recipe("fast", epochs=3).train.epochs
    3

    Raises:
        BadInput: The recipe or the backbone does not exist.
    """
    from msgspec.structs import replace

    from msal_deploy.recipe import BACKBONES, Recipe

    if backbone is not None and backbone not in BACKBONES:
        raise BadInput(f"{backbone!r} is not a backbone", suggest(backbone, BACKBONES))
    recipe = Recipe.load(name) if isinstance(name, str) else name
    train = replace(recipe.train, **_given(epochs=epochs, seed=seed, rate=rate))
    network = replace(recipe.network, **_given(weights=encoder, model=model, backbone=backbone))
    return replace(recipe, train=train, network=network)


def _given(**options: str | float | None) -> dict[str, str | float]:
    return {name: value for name, value in options.items() if value is not None}
