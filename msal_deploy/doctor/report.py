"""The results of `doctor`, as tables for a terminal and as JSON."""

import shlex
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
from msal_deploy.doctor.estimates import SIDE, BundleReport
from msal_deploy.doctor.machine import Machine
from msal_deploy.doctor.pins import drivers, pythons
from msal_deploy.errors import MissingRequirement
from msal_deploy.roofline import FOOTNOTE, estimate_table
from msal_deploy.targets import Target, targets

INSTALLED_BY_PIP = {"TensorRT", "CUDA", "ONNX Runtime"}


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine has, and how it compares with a target.

    >>> report = DoctorReport(machine=Machine(python="3.11.9", no_gpu="no NVIDIA driver found"))
    >>> report.unmet_requirements
    ()

    Attributes:
        machine: What the machine has.
        asked_for: Name or file of the requested target; empty if it is the target of this machine's GPU.
        target: The target; None if none was requested and no target matches this machine's GPU.
        checks: One for each part of the machine; empty without a target. JSON key: ``verdicts``.
        capabilities: What the machine can do without a GPU; empty with a target. JSON key: ``abilities``.
        bundle: Results for the graphs of a bundle; None if none was given.
    """

    machine: Machine
    asked_for: str = ""
    target: Target | None = None
    checks: tuple[Check, ...] = msgspec.field(default=(), name="verdicts")
    capabilities: tuple[Capability, ...] = msgspec.field(default=(), name="abilities")
    bundle: BundleReport | None = None

    @property
    def unmet_requirements(self) -> tuple[Check, ...]:
        """Required components that are missing or unsuitable for the target."""
        return tuple(check for check in self.checks if not check.is_met)

    def require_target(self, requirements: Path | None = None, dockerfile: Path | None = None) -> None:
        """Raise unless this machine can build and run plans for the requested target.

        Args:
            requirements: Where the requirements file was written, for the command in the error; None if it was not.
            dockerfile: Where the Dockerfile was written, likewise.

        Raises:
            MissingRequirement: A requirement is not met. The error lists all of them and the command to run.
        """
        if self.target is None or not self.asked_for or not self.unmet_requirements:
            return
        unmet = ", ".join(check.requirement for check in self.unmet_requirements)
        raise MissingRequirement(
            f"This machine does not meet the requirements of {self.target.name}: {unmet}",
            self._remedy(self.target.name, requirements, dockerfile),
        )

    def _remedy(self, name: str, requirements: Path | None, dockerfile: Path | None) -> str:
        doctor = f"msal-deploy doctor --gpu {shlex.quote(self.asked_for)}"
        if {check.part for check in self.unmet_requirements} <= INSTALLED_BY_PIP:
            file = requirements or Path("requirements.txt")
            write = "" if requirements else f"{doctor} --requirements {file}; "
            constraint = file if file.is_absolute() else f"$PWD/{file}"
            return f'run: {write}PIP_CONSTRAINT="{constraint}" pip install --no-cache-dir -r {file}'
        shown = shlex.quote(str(dockerfile or "Dockerfile"))
        write = "" if dockerfile else f"{doctor} --dockerfile {shown}; "
        return f"on a machine with the GPU, run: {write}docker build --file {shown} --tag msal-deploy:{name} ."

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        bundle = self.bundle
        return values | {
            "lacking": [check.part for check in self.unmet_requirements],
            "bundle": bundle
            and {
                "estimates": [estimate.to_json() for estimate in bundle.estimates],
                "readable": msgspec.to_builtins(bundle.parser_support),
            },
        }

    def table(self) -> RenderableType:
        """Return the report as tables for an 80-column terminal."""
        parts: list[RenderableType] = []
        if self.target:
            parts += [_check_table(self.target, self.checks), *_notes(self.checks), Text(), *_advice(self.target)]
        else:
            parts += [_capability_table(self.machine, self.capabilities)]
        if self.bundle:
            parts += [Text(), estimate_table(self.bundle.estimates, str(SIDE)), Text(FOOTNOTE)]
            parts += _parser_support(self.bundle)
        return Group(*parts)


COLOURS = {"ok": "green", "yes": "green", "no": "dim", "not needed": "dim"}
ON_SCREEN = {"another": "unsuitable"}  # the JSON keeps the old value


def _status(status: str, required: bool = True) -> Text:
    return Text(ON_SCREEN.get(status, status), style=COLOURS.get(status, "red" if required else "yellow"))


def _check_table(target: Target, checks: Sequence[Check]) -> Table:
    title = f"{target.name}: {target.gpu}, compute capability {target.sm}, {target.memory_gib:g} GiB"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "found", "needed", "status"):
        table.add_column(column)
    for check in checks:
        cells = map(Text, (check.part, check.found, check.needed))  # Text, so that brackets are not read as markup
        table.add_row(*cells, _status(check.status, check.required))
    return table


def _notes(checks: Sequence[Check]) -> Iterator[Text]:
    for check in checks:
        if check.why:
            yield Text.assemble((f"{check.part}: ", "bold"), check.why)


def _advice(target: Target) -> Iterator[Text]:
    container = target.container
    discouraged = "".join(f"; discouraged: {name} ({why})" for name, why in target.discouraged.items())
    versions = f"(TensorRT {container.tensorrt}, CUDA {container.cuda})"
    lines = {
        "Newest TensorRT": f"{target.tensorrt}. {target.why_last or 'No newer release has been checked.'}",
        "Preferred precisions": ", then ".join(target.preferred) + discouraged,
        "Compatible versions": f"Python {pythons(target)}, driver {drivers(target)}, {', '.join(target.pins)}",
        "Build image": f"nvcr.io/nvidia/tensorrt:{container.tag}-py3 {versions}",
        "Serving image": f"nvcr.io/nvidia/tritonserver:{container.tag}-py3",
        "Write these versions with": "--requirements FILE, --dockerfile FILE, --compose FILE",
    }
    return (Text.assemble((f"{name}: ", "bold"), text) for name, text in lines.items())


def _capability_table(machine: Machine, capabilities: Sequence[Capability]) -> Table:
    gpus = ", ".join(f"{gpu.name} ({gpu.sm}) is not a known target" for gpu in machine.gpus)
    table = Table(
        title=Text(f"GPU: {gpus or machine.no_gpu}\nWhat this machine can do"),
        title_justify="left",
        caption="Check a GPU with msal-deploy doctor --gpu NAME, where NAME is " + ", ".join(t.name for t in targets()),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=False,
    )
    for capability in capabilities:
        table.add_row(capability.what, _status("yes" if capability.able else "no"), Text(capability.how))
    return table


def _parser_support(bundle: BundleReport) -> Iterator[Text]:
    for support in bundle.parser_support:
        if support.problems:
            more = f" (and {len(support.problems) - 1} more)" if len(support.problems) > 1 else ""
            message = f"✗ TensorRT {support.tensorrt} cannot parse {support.graph}: {support.problems[0]}{more}"
            yield Text(message, style="red")
        else:
            yield Text(f"✓ TensorRT {support.tensorrt} can parse {support.graph}", style="green")
