"""Our bench beside the tools of others: turns of whole processes, the ratio with its interval, and the verdict."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import numpy as np
from peer_tools import BENCH, TOOLS, Job, Tool, missing
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from msal_deploy.bench import Ratio, describe_machine, image_sets, speed_up
from msal_deploy.bundle import Bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.spec import check_extent
from msal_deploy.trt.local_gpu import current_gpu
from msal_deploy.trt.plan_checks import find_plan

AGREEMENT = 0.05


class Comparison(msgspec.Struct, frozen=True):
    """Our bench and one tool on one engine.

    Attributes:
        engine: Our engine.
        tool: Name of the tool.
        differs: What the tool's figure leaves out or adds.
        ours: Median latency of each turn of ours in ms.
        theirs: Median latency of each turn of the tool in ms.
    """

    engine: str
    tool: str
    differs: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> Ratio:
        """Our latency divided by the tool's; a turn is one observation."""
        ratio = speed_up(self.theirs, self.ours)
        assert ratio is not None  # there are two turns at least
        return ratio

    @property
    def verdict(self) -> Literal["agrees", "differs", "not settled"]:
        """Whether the interval is within `AGREEMENT` of 1, outside it, or both."""
        ratio = self.ratio
        if ratio.low >= 1 - AGREEMENT and ratio.high <= 1 + AGREEMENT:
            return "agrees"
        return "differs" if ratio.high < 1 - AGREEMENT or ratio.low > 1 + AGREEMENT else "not settled"

    def __str__(self) -> str:
        ratio = self.ratio
        text = (
            f"{self.engine} against {self.tool}: {self.verdict}: {ratio.ratio - 1:+.1%} "
            f"(95%: {ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
        )
        if self.verdict == "not settled":
            return f"{text}; the machine was not idle enough, give more turns"
        return text if self.verdict == "agrees" else f"{text}; {self.differs}"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        return {
            **msgspec.to_builtins(self),
            "ratio": msgspec.to_builtins(self.ratio),
            "verdict": self.verdict,
            "message": str(self),
        }


class PeerResults(msgspec.Struct, frozen=True):
    """All comparisons of one run.

    Attributes:
        size: Side of the image in pixels.
        threads: CPU threads of every process.
        comparisons: The comparisons.
        skipped: One message for each tool that could not run.
        environment: Description of the machine.
    """

    size: int
    threads: int
    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    environment: Mapping[str, Any]

    def messages(self) -> tuple[str, ...]:
        """Return the verdicts, and the tools that were skipped."""
        return (*map(str, self.comparisons), *self.skipped)

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON types."""
        return {
            "size": self.size,
            "threads": self.threads,
            "agreement": AGREEMENT,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "skipped": list(self.skipped),
            "environment": dict(self.environment),
        }

    def table(self) -> Table:
        """Return the medians over the turns as a table for an 80-column terminal."""
        title = f"One image of {self.size} × {self.size} px, {self.threads} threads, median in ms"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("engine", "tool"):
            table.add_column(column)
        for column in ("ours", "the tool's", "ours / theirs", "turns"):
            table.add_column(column, justify="right")
        for one in self.comparisons:
            medians = (f"{median(one.ours):.1f}", f"{median(one.theirs):.1f}")
            table.add_row(one.engine, one.tool, *medians, f"{one.ratio.ratio:.3f}", str(len(one.ours)))
        return table


def compare(
    bundle: Bundle, engines: Sequence[str], *, size: int, threads: int, seconds: float, turns: int, progress: bool
) -> PeerResults:
    """Run our bench and each tool in turns, a process each, on the same graph, image, shape and threads.

    Args:
        bundle: A bundle with the graphs.
        engines: Our engines. Each is compared with the tools of its runtime.
        size: Side of the image in pixels.
        threads: CPU threads of every process.
        seconds: Length of the timing of each process.
        turns: Processes of each side, at least two; which side is first alternates.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: A graph is missing, a process failed, or the size is not a multiple of 32.
    """
    check_extent(bundle.spec.image.axes[1], size)
    environment = describe_machine()
    comparisons: list[Comparison] = []
    with _job_maker(bundle, size, threads, seconds) as make_job:
        able, skipped = _choose(engines, make_job)
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            tick = partial(bar.advance, bar.add_task("turns", total=2 * turns * len(able)))
            for tool, job in able:
                ours, theirs = take_turns(tool, job, turns, tick)
                comparisons.append(Comparison(job.engine, tool.name, tool.differs, ours, theirs))
    return PeerResults(size, threads, tuple(comparisons), skipped, environment)


def take_turns(
    tool: Tool, job: Job, turns: int, tick: Callable[[], object]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the median latencies of our bench and of a tool, in ms, one for each turn."""
    medians: dict[str, list[float]] = {BENCH.name: [], tool.name: []}
    for turn in range(turns):
        for one in (BENCH, tool) if turn % 2 == 0 else (tool, BENCH):
            medians[one.name].append(one.measure(job))
            tick()
    return tuple(medians[BENCH.name]), tuple(medians[tool.name])


@contextmanager
def _job_maker(bundle: Bundle, size: int, threads: int, seconds: float) -> Iterator[Callable[[str], Job]]:
    """Write the image that all tools get, and give a function from an engine to its job."""
    with TemporaryDirectory(prefix="msal-deploy-") as name:
        folder = Path(name)
        (images, *_) = image_sets((size, size), 1)
        np.save(folder / "image.npy", images)
        (folder / "image.bin").write_bytes(images.tobytes())

        def make(engine: str) -> Job:
            files = {"image": folder / "image.npy", "raw": folder / "image.bin", "folder": folder}
            graph = _graph(bundle, engine)
            return Job(bundle.path, graph, engine, size=size, threads=threads, seconds=seconds, **files)

        yield make


def _graph(bundle: Bundle, engine: str) -> Path:
    """Return the file that an engine loads.

    Raises:
        MissingRequirement: It is a plan, and there is no GPU for it.
    """
    runtime, _, precision = engine.partition(":")
    if runtime != "tensorrt":
        return bundle.graph("fp32" if precision == "bf16" else precision, runtime)
    gpu = current_gpu()
    if not gpu.sm:
        raise MissingRequirement("there is no GPU for a plan", "run it on a machine with one")
    return find_plan(bundle, precision, runtime, gpu.sm)


def _choose(engines: Sequence[str], make_job: Callable[[str], Job]) -> tuple[list[tuple[Tool, Job]], tuple[str, ...]]:
    """Return the tools that can run, each with its job, and a message for each that cannot."""
    able: list[tuple[Tool, Job]] = []
    skipped: list[str] = []
    for engine in engines:
        for tool in (one for one in TOOLS if engine.partition(":")[0] in one.runtimes):
            try:
                job = make_job(engine)
                why = missing(tool, job)
            except MissingRequirement as error:
                why = str(error)
            if why:
                skipped.append(f"{engine} against {tool.name}: skipped: {why}")
            else:
                able.append((tool, job))
    return able, tuple(skipped)
