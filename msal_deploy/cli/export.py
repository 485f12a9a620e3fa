"""``msal-deploy export``."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Json, RecipeName


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A checkpoint of train, or a state dict (.pt, .pth) with --recipe.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The bundle to write; an older one is replaced.", show_default=False)
    ],
    recipe: RecipeName = None,
    json: Json = None,
) -> None:
    """Write a bundle: the FP32 ONNX graph, golden tensors, and a manifest with the hash chain.

    The graph takes uint8 RGB images and gives probabilities. It is compared with torch at nine shapes first, and
    nothing is written where they differ.

    Example: msal-deploy export runs/r34/best.safetensors --out bundle
    """
    from msal_deploy.checkpoint import load_checkpoint
    from msal_deploy.export import export as write_bundle
    from msal_deploy.files import write_json
    from msal_deploy.recipe import Recipe

    chosen = Recipe.load(recipe) if recipe else None
    report = write_bundle(load_checkpoint(checkpoint, chosen), out, source=checkpoint, progress=True)
    typer.echo(
        f"{out}: opset {report.opset}, {report.nodes} nodes; max |Δp| torch to ONNX Runtime {report.worst:.1e} "
        f"over {len(report.checks)} shapes"
    )
    typer.echo(f"Next: msal-deploy validate {out} --data DIR")
    if json:
        write_json(json, report.to_json())
