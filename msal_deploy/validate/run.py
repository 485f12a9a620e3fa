"""The entry of validate: run the engines one after the other, and score and judge each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msal_deploy.bundle import Bundle
from msal_deploy.data import Patch, Protocol
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import open_engine
from msal_deploy.scoring import with_nuclei
from msal_deploy.validate.compare import Comparison, Inputs
from msal_deploy.validate.gate import Limits
from msal_deploy.validate.report import ValidationReport


def validate(
    bundle: Bundle,
    engine_ids: Sequence[str],
    patches: Sequence[Patch],
    *,
    limits: Limits | None = None,
    protocol: Protocol = "corners",
    size: int = 512,
    also: Mapping[Protocol, Sequence[Patch]] | None = None,
    second_build: Bundle | None = None,
    batch: int = 1,
    threads: int | None = None,
    reference: str = "torch:fp32",
    against: Bundle | None = None,
    label_convention: str = "",
    progress: bool = False,
) -> ValidationReport:
    """Score engines on labelled patches, compare each with the reference, and judge its losses.

    >>> from pathlib import Path
    >>> from msal_deploy.data import open_dataset, patches_of
    >>> with open_dataset(Path("monuseg")) as dataset:
    ...     patches = patches_of(dataset.test)
    >>> bundle = Bundle(Path("bundle"))
    >>> report = validate(bundle, ["onnxruntime:fp16"], patches, reference="onnxruntime:fp32")
    >>> report.engines["onnxruntime:fp16"].judgement.verdict, report.images  # two images are too few
    ('undecided', 2)

    Args:
        bundle: Bundle with the graphs and plans of the engines.
        engine_ids: Engines to score. The reference always runs, first. One engine is open at a time.
        patches: Patches, with nuclei in at least two images. Fewer than `MIN_IMAGES` images decide nothing.
        limits: What an engine may lose.
        protocol: How the patches were made from the images; with ``tiles``, an engine sees each in tiles of `size`.
        size: Side of a patch or tile in pixels.
        also: Patches of other protocols, to compare the scores. They are not judged.
        second_build: A bundle whose engines must compute the same as those of `bundle`.
        batch: Patches per inference call.
        threads: CPU threads of each engine; None for the runtime's default.
        reference: Engine to compare with.
        against: The bundle of the reference, if it is not `bundle`: what does a lighter network cost?
        label_convention: How the true masks were drawn; the report includes it.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: Fewer than two images have nuclei, an engine is unknown or listed twice, an argument is out of range,
            the specification of `against` is another one, or the reference scores near zero.
        MissingRequirement: An engine cannot be opened on this machine. Raised before the reference runs.
    """
    limits = limits or Limits()
    limits.check()
    _check(engine_ids, patches, batch)
    if against is not None and against.spec != bundle.spec:
        raise BadInput(f"{against.path.name} has another input or output than {bundle.path.name}", "export both alike")
    first = reference if against is None else f"{reference} of {against.path.name}"
    ids = [first, *(engine for engine in engine_ids if engine != first)]
    engines = {first: open_engine(against or bundle, reference, threads=threads)}
    engines |= {engine: open_engine(bundle, engine, threads=threads) for engine in ids[1:]}
    # The reference may run for minutes, so first check that the other engines can be opened.
    for name in ids[1:]:
        with engines[name]:
            pass
    second = {name: open_engine(second_build, name, threads=threads) for name in ids[1:]} if second_build else {}
    inputs = Inputs({protocol: patches, **(also or {})}, size, batch, progress)
    comparison = Comparison(engines.pop(first), inputs, limits)
    results = {first: comparison.reference_result()}
    results |= {name: comparison.result(engine, second.get(name)) for name, engine in engines.items()}
    return ValidationReport(
        reference=first,
        engines=results,
        patches=tuple((patch.stem, patch.corner) for patch in patches),
        limits=limits,
        threshold=bundle.spec.threshold,
        label_convention=label_convention,
        protocol=protocol,
        size=size,
        protocol_patches={name: len(images) for name, images in (also or {}).items()},
    )


def _check(engine_ids: Sequence[str], patches: Sequence[Patch], batch: int) -> None:
    images = {patch.stem for patch in patches}
    if len(images) < 2:
        raise BadInput(f"Expected patches of at least two images, got {len(images)}", "add images to the test set")
    labelled = {patches[index].stem for index in with_nuclei(patches)}
    if len(labelled) < 2:
        raise BadInput(
            f"Expected labelled nuclei in at least two images, found them in {len(labelled)} of {len(images)}",
            "check the annotations",
        )
    if repeated := sorted({engine for engine in engine_ids if list(engine_ids).count(engine) > 1}):
        raise BadInput(f"Expected each engine once, got {', '.join(repeated)} more than once", "list it once")
    if batch < 1:
        raise BadInput(f"Expected a batch of at least 1, got {batch}", "set a positive number")
