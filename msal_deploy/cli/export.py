"""``msal-deploy export``."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Json, RecipeName, choose_recipe


def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The bundle to write; an older one is replaced.", show_default=False)
    ],
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint of train, weights by name, or a state dict (.pt, .pth) with --recipe or --model. "
            "Default: msal-net-r34, which comes with the package.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeName = None,
    model: Annotated[
        str | None, typer.Option(help="Another network, such as ce-net; untrained where no checkpoint is named.")
    ] = None,
    json: Json = None,
) -> None:
    """Write a bundle: the FP32 ONNX graph, golden tensors, and a manifest with the hash chain.

    The graph takes uint8 RGB images and gives probabilities. It is compared with torch at nine shapes first, and
    nothing is written where they differ.

    Example: msal-deploy export runs/r34/best.safetensors --out bundle
    """
    from msal_deploy.checkpoint import load_checkpoint, untrained
    from msal_deploy.export import export as write_bundle
    from msal_deploy.files import write_json
    from msal_deploy.weights import DEFAULT, find_weights

    chosen = choose_recipe(recipe or "paper", model=model) if recipe or model else None
    if checkpoint is None and chosen is not None:
        weights = untrained(chosen)
        typer.echo(f"{chosen.network.model} is not trained: this graph is for timing and integration only.", err=True)
    else:
        weights = load_checkpoint(find_weights(checkpoint or DEFAULT), chosen)
    report = write_bundle(weights, out, progress=True)
    typer.echo(
        f"{out}: opset {report.opset}, {report.nodes} nodes; max |Δp| torch to ONNX Runtime {report.worst:.1e} "
        f"over {len(report.checks)} shapes"
    )
    typer.echo(f"Next: msal-deploy validate {out} --data DIR")
    if json:
        write_json(json, report.to_json())
