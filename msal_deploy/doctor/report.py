"""What the doctor found, as tables for a terminal and as JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msal_deploy.doctor.capabilities import Capability
from msal_deploy.doctor.checks import Check
from msal_deploy.doctor.estimates import PRECISIONS, SIDE, BundleReport
from msal_deploy.doctor.machine import Machine
from msal_deploy.doctor.pins import drivers, pythons
from msal_deploy.errors import MissingRequirement
from msal_deploy.roofline import LABEL, Estimate
from msal_deploy.targets import Target, targets

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
        checks: a part each; empty without a target.
        capabilities: what the machine can do without a GPU.
    """

    machine: Machine
    asked_for: str = ""
    target: Target | None = None
    checks: tuple[Check, ...] = msgspec.field(default=(), name="verdicts")
    capabilities: tuple[Capability, ...] = msgspec.field(default=(), name="abilities")
    bundle: BundleReport | None = None

    @property
    def lacking(self) -> tuple[Check, ...]:
        """The parts for want of which the target is not served here."""
        return tuple(check for check in self.checks if check.lacks)

    def require_served(self, requirements: Path | None = None, dockerfile: Path | None = None) -> None:
        """Raise unless this machine serves the target that was asked for.

        Args:
            requirements, dockerfile: where these were written just now, for the command that mends it.

        Raises:
            MissingRequirement: with all that lacks, and the command.
        """
        if self.target is None or not self.asked_for or not self.lacking:
            return
        lacks = ", ".join(check.want for check in self.lacking)
        mend = self._mend(self.target.name, requirements, dockerfile)
        raise MissingRequirement(f"For {self.target.name} this machine lacks {lacks}; {mend}")

    def _mend(self, name: str, requirements: Path | None, dockerfile: Path | None) -> str:
        doctor = f"msal-deploy doctor --gpu {self.asked_for}"
        if {check.part for check in self.lacking} <= BROUGHT_BY_PIP:
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
            "lacking": [check.part for check in self.lacking],
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
            parts += [_check_table(self.target, self.checks), *_notes(self.checks), Text(), *_advice(self.target)]
        else:
            parts += [_capability_table(self.machine, self.capabilities)]
        if self.bundle:
            parts += [Text(), _estimates(self.bundle.estimates), Text(ESTIMATES), *_readable(self.bundle)]
        return Group(*parts)


COLOURS = {"ok": "green", "yes": "green", "no": "dim", "not needed": "dim"}


def _status(status: str, required: bool = True) -> Text:
    return Text(status, style=COLOURS.get(status, "red" if required else "yellow"))


def _check_table(target: Target, checks: Sequence[Check]) -> Table:
    title = f"{target.name}: {target.gpu}, capability {target.sm}, {target.memory_gib:g} GiB"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "here", "needed", "check"):
        table.add_column(column)
    for check in checks:
        cells = map(Text, (check.part, check.found, check.needed))  # as they are: "[…]" is no markup
        table.add_row(*cells, _status(check.status, check.required))
    return table


def _notes(checks: Sequence[Check]) -> Iterator[Text]:
    for check in checks:
        if check.why:
            yield Text.assemble((f"{check.part}: ", "bold"), check.why)


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


def _capability_table(machine: Machine, found: Sequence[Capability]) -> Table:
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
        table.add_row(ability.what, _status("yes" if ability.able else "no"), Text(ability.how))
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
