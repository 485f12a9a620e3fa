"""Options that several verbs have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.recipe import Recipe

BundlePath = Annotated[Path, typer.Argument(help="The bundle that export wrote.", show_default=False)]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        "-e",
        help="An engine such as openvino:int8; give it again for more. Default: all that the bundle serves here.",
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report to this file as JSON.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", "-r", help="paper, fast, demo, or a TOML file (see export/README.md).")
]
Encoder = Annotated[
    str | None, typer.Option(help="Where the encoder starts: imagenet, random, or a torchvision ResNet's state dict.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the recipe's.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default each runtime chooses.")]


def parse_size(text: str) -> tuple[int, int]:
    """Read ``512`` or ``768x512`` (height x width).

    Raises:
        BadInput: it is neither.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() for part in parts):
        raise BadInput(f"{text!r} is no size; write 512, or 768x512 for height x width")
    return int(parts[0]), int(parts[-1])


def choose_recipe(
    name: str,
    encoder: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    model: str | None = None,
) -> "Recipe":
    """Load the recipe `name`, with what the other options change in it."""
    from msgspec.structs import replace

    from msal_deploy.recipe import Recipe

    recipe = Recipe.load(name)
    train = replace(recipe.train, **_given(epochs=epochs, seed=seed))
    return replace(recipe, train=train, network=replace(recipe.network, **_given(weights=encoder, model=model)))


def _given(**options: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in options.items() if value is not None}
