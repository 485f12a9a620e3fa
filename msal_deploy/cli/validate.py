"""``msal-deploy validate``."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import (
    AjiBudget,
    Budget,
    BundlePath,
    Engines,
    Json,
    LabelFolder,
    PqBudget,
    Split,
    Threads,
    WorstImage,
    lock_output,
)
from msal_deploy.cli.pages import gallery
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msal_deploy.bundle import Bundle
    from msal_deploy.data import Patch
    from msal_deploy.validate import BisectReport, ValidationReport

BISECT_PATCHES = 16


def validate(
    context: typer.Context,
    bundle: BundlePath,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Folder or zip of labelled images, in any layout that train accepts. "
            "Training images in it are not used.",
            show_default=False,
        ),
    ],
    labels: LabelFolder = None,
    split: Split = None,
    engine: Engines = None,
    budget: Budget = 0.002,
    worst_image: WorstImage = 0.02,
    budget_aji: AjiBudget = None,
    budget_pq: PqBudget = None,
    reference: Annotated[str, typer.Option(help="Engine to compare with.")] = "torch:fp32",
    against: Annotated[
        Path | None,
        typer.Option(help="The bundle of the reference, if it is another one: what does a lighter network cost?"),
    ] = None,
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
        Path | None,
        typer.Option("--out", "-o", help="Folder for report.html and what it was made from."),
    ] = None,
    json: Json = None,
) -> None:
    """Compare each engine with PyTorch on labelled images: is its loss within the budget?

    An engine passes (exit 0) if it is within budget: the one-sided 95% lower bound of its mean ΔDice is at least
    −budget, no image loses more than --worst-image, and its checks without labels pass. Exit 1 if one is over budget,
    or undecided because there are too few images; the message says about how many would decide.

    Example: msal-deploy validate bundle --data monuseg --engine openvino:int8 --out parity

    Example: msal-deploy validate bundle --data my-images --patch 256 --protocol corners --protocol tiles

    Example: msal-deploy validate light --against bundle --data monuseg
    """
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.data import label_convention, open_scored_images, parse_protocol, protocol_patches
    from msal_deploy.files import output_folder, write_json
    from msal_deploy.precision.calibration_tiles import require_unseen
    from msal_deploy.runtimes import available_engines
    from msal_deploy.validate import Limits
    from msal_deploy.validate import validate as score

    if bisect and against:
        raise BadInput("--bisect compares nodes of one network", "leave out --against")
    if out:
        lock_output(context, out)
    elif bisect:
        output_folder(bundle)  # for the log of its trials
    opened = Bundle(bundle)
    first, *others = dict.fromkeys(map(parse_protocol, protocol or ["corners"]))
    limits = Limits(budget, worst_image, budget_aji, budget_pq)
    with open_scored_images(data, partial(typer.echo, err=True), labels, split) as images:
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
        against=Bundle(against) if against else None,
        label_convention=convention,
        progress=True,
    )

    def write(found: "BisectReport | None" = None) -> None:
        if json:
            write_json(json, report.to_json() | ({"bisect": found.to_json()} if found else {}))
        if out:
            _write_page(out, opened, report, patches, found, str(data))

    write()  # bisection takes minutes and may fail
    Console().print(report.table())
    if bisect and (found := _bisect(opened, report, patches, reference, threads, out)):
        write(found)
        Console().print(found.table())
        typer.echo(found.sentence)
    if out:
        typer.echo(f"Report: {out / 'report.html'}")
    report.require_passed()


def _bisect(
    bundle: "Bundle",
    report: "ValidationReport",
    patches: "Sequence[Patch]",
    reference: str,
    threads: int | None,
    out: Path | None,
) -> "BisectReport | None":
    """Find the costly nodes of the first FP16 or INT8 engine that did not pass."""
    from msal_deploy.validate import bisect

    failed = [name for name, result in report.engines.items() if result.judgement.failures]
    candidates = [name for name in failed if name.endswith((":fp16", ":int8"))]
    if not candidates:
        typer.echo("No FP16 or INT8 engine is over budget: nothing to bisect.", err=True)
        return None
    return bisect(
        bundle,
        candidates[0],
        _spread(patches, BISECT_PATCHES),
        budget=report.limits.budget,
        reference=reference,
        threads=threads,
        trial_log=(out or bundle.path) / "bisect.jsonl",
        progress=True,
    )


def _spread(patches: "Sequence[Patch]", count: int) -> "list[Patch]":
    """Return `count` patches, spread over the images: the first of each image, then the second."""
    seen: dict[str, int] = {}
    ranks = []
    for patch in patches:
        seen[patch.stem] = seen.get(patch.stem, 0) + 1
        ranks.append(seen[patch.stem])
    order = sorted(range(len(patches)), key=ranks.__getitem__)[:count]
    return [patches[index] for index in sorted(order)]


def _write_page(
    folder: Path,
    bundle: "Bundle",
    report: "ValidationReport",
    patches: "Sequence[Patch]",
    found: "BisectReport | None",
    data: str,
) -> None:
    import msgspec

    from msal_deploy.report import Report, save_report

    save_report(
        folder,
        Report(
            title="Parity",
            manifest=msgspec.to_builtins(bundle.manifest),
            validation=report.to_json(),
            bisect=found.to_json() if found else None,
            gallery=gallery(report, patches),
            data=f"labelled images of {Path(data).name}",
            command=shlex.join(["msal-deploy", *sys.argv[1:]]),
        ),
    )
