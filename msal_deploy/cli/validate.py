"""``msal-deploy validate``."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath, Engines, Json, Threads


def validate(
    bundle: BundlePath,
    data: Annotated[
        Path, typer.Option("--data", help="MoNuSeg folder or zip; only its test images are used.", show_default=False)
    ],
    engine: Engines = None,
    budget: Annotated[float, typer.Option(min=0, help="Largest acceptable loss of mean Dice.")] = 0.002,
    reference: Annotated[str, typer.Option(help="Engine to compare with.")] = "torch:fp32",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Compare each engine's Dice with PyTorch's on the test patches; exit 1 if one loses more than --budget.

    An engine passes if the one-sided 95% lower bound of its mean ΔDice, from a bootstrap over images, is at least
    −budget.

    Example: msal-deploy validate bundle --data monuseg --engine openvino:fp32 --json parity.json
    """
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.data import label_convention, open_dataset, patches_of
    from msal_deploy.files import write_json
    from msal_deploy.precision.calibration_tiles import require_unseen
    from msal_deploy.runtimes import available_engines
    from msal_deploy.validate import validate as score

    opened = Bundle(bundle)
    with open_dataset(data) as dataset:
        require_unseen(opened, dataset.test)
        patches = patches_of(dataset.test)
        convention = label_convention(dataset.test)
    report = score(
        opened,
        engine or available_engines(opened),
        patches,
        budget=budget,
        threads=threads,
        reference=reference,
        label_convention=convention,
        progress=True,
    )
    Console().print(report.table())
    if json:
        write_json(json, report.to_json())
    report.require_passed()
