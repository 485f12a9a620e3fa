"""What the doctor found, as tables for a terminal and as JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msal_deploy.bundle import Bundle
from msal_deploy.doctor.abilities import Ability, abilities
from msal_deploy.doctor.estimates import PRECISIONS, SIDE, BundleReport, judge_bundle
from msal_deploy.doctor.machine import Machine, describe
from msal_deploy.doctor.pins import drivers, pythons
from msal_deploy.doctor.verdicts import Verdict, check
from msal_deploy.errors import BadInput, EnvironmentLacks
from msal_deploy.targets import Target, find_target, target_of_sm, targets
from msal_deploy.targets.roofline import LABEL, Estimate

ESTIMATES = (
    f"{LABEL}; at batch 1. tf32: FP32 tensors in tensor cores. * no such graph in the bundle: the FP32 graph's layers, "
    "all taken at that precision."
)
BROUGHT_BY_PIP = {"TensorRT", "CUDA", "ONNX Runtime"}


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is here, and how it stands to a target.

    Attributes:
        asked_for: the target as it was asked for, a name or a file; empty where it is that of the GPU here.
        target: None where none was asked for and there is no GPU that one is for.
        verdicts: a part each; empty without a target.
        abilities: what the machine can do without a GPU.
    """

    machine: Machine
    asked_for: str = ""
    target: Target | None = None
    verdicts: tuple[Verdict, ...] = ()
    abilities: tuple[Ability, ...] = ()
    bundle: BundleReport | None = None

    @property
    def lacking(self) -> tuple[Verdict, ...]:
        """The parts for want of which the target is not served here."""
        return tuple(verdict for verdict in self.verdicts if verdict.lacks)

    def require_served(self, requirements: Path | None = None, dockerfile: Path | None = None) -> None:
        """Raise unless this machine serves the target that was asked for.

        Args:
            requirements, dockerfile: where these were written just now, for the command that mends it.

        Raises:
            EnvironmentLacks: with all that lacks, and the command.
        """
        if self.target is None or not self.asked_for or not self.lacking:
            return
        lacks = ", ".join(verdict.want for verdict in self.lacking)
        mend = self._mend(self.target.name, requirements, dockerfile)
        raise EnvironmentLacks(f"For {self.target.name} this machine lacks {lacks}; {mend}")

    def _mend(self, name: str, requirements: Path | None, dockerfile: Path | None) -> str:
        doctor = f"msal-deploy doctor --gpu {self.asked_for}"
        if {verdict.part for verdict in self.lacking} <= BROUGHT_BY_PIP:
            file = requirements or Path("requirements.txt")
            write = "" if requirements else f"{doctor} --requirements {file}; "
            constraint = file if file.is_absolute() else f"$PWD/{file}"
            return f'run: {write}PIP_CONSTRAINT="{constraint}" pip install --no-cache-dir -r {file}'
        file = dockerfile or Path("Dockerfile")
        write = "" if dockerfile else f"{doctor} --dockerfile {file}; "
        return f"where the GPU is, run: {write}docker build --file {file} --tag msal-deploy:{name} ."

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        bundle = self.bundle
        return values | {
            "lacking": [verdict.part for verdict in self.lacking],
            "bundle": bundle
            and {
                "estimates": [guess.to_json() for guess in bundle.estimates],
                "readable": msgspec.to_builtins(bundle.readable),
            },
        }

    def table(self) -> RenderableType:
        """Return the report for an 80-column terminal."""
        parts: list[RenderableType] = []
        if self.target:
            parts += [_verdicts(self.target, self.verdicts), *_notes(self.verdicts), Text(), *_advice(self.target)]
        else:
            parts += [_abilities(self.machine, self.abilities)]
        if self.bundle:
            parts += [Text(), _estimates(self.bundle.estimates), Text(ESTIMATES), *_readable(self.bundle)]
        return Group(*parts)


def examine(gpu: str | None = None, bundle: Bundle | None = None) -> DoctorReport:
    """Look at this machine, and judge it for a target.

    Args:
        gpu: a target's name or file; None for the one of the GPU that is here.
        bundle: whose graphs to estimate and to check, on that target, or on all of them where `gpu` is None.

    Raises:
        BadInput: no such target, or the bundle cannot be used.
    """
    target = find_target(gpu) if gpu else None
    judged = judge_bundle(bundle, (target,) if target else targets()) if bundle else None
    machine = describe()
    target = target or target_here(machine)
    return DoctorReport(
        machine=machine,
        asked_for=gpu or "",
        target=target,
        verdicts=check(machine, target) if target else (),
        abilities=() if target else abilities(machine),
        bundle=judged,
    )


def target_here(machine: Machine) -> Target | None:
    """Return the target of the first GPU here that one is for."""
    for gpu in machine.gpus:
        try:
            return target_of_sm(gpu.sm, gpu.name)
        except BadInput:
            continue
    return None


COLOURS = {"ok": "green", "yes": "green", "no": "dim", "not needed": "dim"}


def _word(word: str, required: bool = True) -> Text:
    return Text(word, style=COLOURS.get(word, "red" if required else "yellow"))


def _verdicts(target: Target, verdicts: Sequence[Verdict]) -> Table:
    title = f"{target.name}: {target.gpu}, capability {target.sm}, {target.memory_gib:g} GiB"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "here", "needed", "verdict"):
        table.add_column(column)
    for verdict in verdicts:
        cells = map(Text, (verdict.part, verdict.here, verdict.needed))  # as they are: "[…]" is no markup
        table.add_row(*cells, _word(verdict.word, verdict.required))
    return table


def _notes(verdicts: Sequence[Verdict]) -> Iterator[Text]:
    for verdict in verdicts:
        if verdict.why:
            yield Text.assemble((f"{verdict.part}: ", "bold"), verdict.why)


def _advice(target: Target) -> Iterator[Text]:
    container = target.container
    slow = "".join(f"; {name} does not: {why}" for name, why in target.slow.items())
    images = f"-py3 (TensorRT {container.tensorrt}, CUDA {container.cuda})"
    lines = {
        "Last TensorRT": f"{target.tensorrt}. {target.why_last or 'Newer ones may follow.'}",
        "Pays": ", then ".join(target.auto) + slow,
        "Works": f"Python {pythons(target)}, driver {drivers(target)}, {', '.join(target.pins)}",
        "Build in": f"nvcr.io/nvidia/tensorrt:{container.tag}{images}",
        "Serve with": f"nvcr.io/nvidia/tritonserver:{container.tag}-py3",
        "As files": "--requirements FILE, --dockerfile FILE, --compose FILE",
    }
    return (Text.assemble((f"{name}: ", "bold"), text) for name, text in lines.items())


def _abilities(machine: Machine, found: Sequence[Ability]) -> Table:
    gpus = ", ".join(f"{gpu.name} ({gpu.sm}), for which there is no target" for gpu in machine.gpus)
    table = Table(
        title=Text(f"What this machine can do: {gpus or machine.no_gpu}"),
        title_justify="left",
        caption="For a GPU elsewhere: msal-deploy doctor --gpu NAME, with " + ", ".join(t.name for t in targets()),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=False,
    )
    for ability in found:
        table.add_row(ability.what, _word("yes" if ability.able else "no"), Text(ability.how))
    return table


def _estimates(estimates: Sequence[Estimate]) -> Table:
    table = Table(
        title=f"Estimate: least ms of a {SIDE} px image (most images/s)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for precision in PRECISIONS:
        table.add_column(precision, justify="right")
    cells = {(guess.target, guess.precision): _cell(guess) for guess in estimates}
    for target in dict.fromkeys(guess.target for guess in estimates):
        table.add_row(target, *(cells.get((target, precision), "–") for precision in PRECISIONS))
    return table


def _cell(guess: Estimate) -> str:
    star = "" if guess.as_exported or guess.precision == "tf32" else "*"
    return f"{guess.milliseconds:.3g} ({guess.images_per_s:.0f}){star}"


def _readable(bundle: BundleReport) -> Iterator[Text]:
    for found in bundle.readable:
        if found.problems:
            more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
            sentence = f"✗ TensorRT {found.tensorrt} does not read {found.graph}: {found.problems[0]}{more}"
            yield Text(sentence, style="red")
        else:
            yield Text(f"✓ TensorRT {found.tensorrt} reads {found.graph}", style="green")
