"""``msal-deploy validate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msal_deploy.cli.options import AjiBudget, Budget, BundlePath, Engines, Json, PqBudget, Threads, WorstImage
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msal_deploy.bundle import Bundle
    from msal_deploy.data import Patch
    from msal_deploy.validate import BisectReport, ValidationReport

BISECT_PATCHES = 16


def validate(
    bundle: BundlePath,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Folder or zip of labelled images, in any layout that train accepts. "
            "If it has test images, only they are used.",
            show_default=False,
        ),
    ],
    engine: Engines = None,
    budget: Budget = 0.002,
    worst_image: WorstImage = 0.02,
    budget_aji: AjiBudget = None,
    budget_pq: PqBudget = None,
    reference: Annotated[str, typer.Option(help="Engine to compare with.")] = "torch:fp32",
    patch: Annotated[int, typer.Option(help="Side of a patch or tile in pixels, from 64.")] = 512,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="How images become patches: corners (the paper's four per image), tiles (whole images, seen in "
            "overlapping tiles) or resize (whole images, scaled to a patch). Repeat it to compare the scores; the "
            "first one is judged.  [default: corners]",
        ),
    ] = None,
    second_build: Annotated[
        Path | None,
        typer.Option(help="A bundle with another build of the same engines, which must compute the same."),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Find the nodes of an FP16 or INT8 engine that cause its loss. Resumes."),
    ] = False,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html and what it was made from.")
    ] = None,
    json: Json = None,
) -> None:
    """Compare each engine with PyTorch on labelled images: is its loss within the budget?

    An engine passes (exit 0) if it is within budget: the one-sided 95% lower bound of its mean ΔDice is at least
    −budget, no image loses more than --worst-image, and its checks without labels pass. Exit 1 if one is over budget, or
    undecided because there are too few images; the message says about how many would decide.

    Example: msal-deploy validate bundle --data monuseg --engine openvino:int8 --out parity

    Example: msal-deploy validate bundle --data my-images --patch 256 --protocol corners --protocol tiles
    """
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.data import check_protocol, label_convention, open_dataset, protocol_patches, test_images
    from msal_deploy.files import write_json
    from msal_deploy.precision.calibration_tiles import require_unseen
    from msal_deploy.runtimes import available_engines
    from msal_deploy.validate import Limits
    from msal_deploy.validate import validate as score

    opened = Bundle(bundle)
    first, *others = [check_protocol(name) for name in protocol or ["corners"]]
    limits = Limits(budget, worst_image, budget_aji, budget_pq)
    with open_dataset(data) as dataset:
        images = test_images(dataset)
        require_unseen(opened, images)
        patches = protocol_patches(images, first, patch)
        also = {name: protocol_patches(images, name, patch) for name in others}
        convention = label_convention(images)
    report = score(
        opened,
        engine or available_engines(opened),
        patches,
        limits=limits,
        protocol=first,
        size=patch,
        also=also,
        second_build=Bundle(second_build) if second_build else None,
        threads=threads,
        reference=reference,
        label_convention=convention,
        progress=True,
    )
