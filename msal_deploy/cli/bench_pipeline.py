"""``msal-deploy bench --predict``: the whole job, stage by stage, against its engine alone on the same tiles."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec

from msal_deploy.bench.ratios import Ratio, speed_up
from msal_deploy.cli.bench_trial import Request, run_trial
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from msal_deploy.bundle import Bundle
    from msal_deploy.prediction.trial import Trial

SCHEMA = "msal-deploy pipeline 1"


class PipelineReport(msgspec.Struct, frozen=True):
    """Several trials of one predict.

    Attributes:
        request: What was computed.
        trials: At least one.
        interrupted: Whether Ctrl-C ended it early.
        environment: The machine.
    """

    request: Request
    trials: tuple["Trial", ...]
    interrupted: bool
    environment: dict[str, Any]

    def mean(self, stage: str, *, cpu: bool = False) -> float:
        """Return the mean over the trials of a stage's seconds of work, or of processor time."""
        return fmean((one.cpu_seconds if cpu else one.seconds).get(stage, 0.0) for one in self.trials)

    @property
    def ratio(self) -> Ratio | None:
        """How many times as long predict takes as its engine alone; None after a single trial."""
        return self._ratio([one.seconds["total"] for one in self.trials])

    @property
    def ratio_without_start(self) -> Ratio | None:
        """The same without opening and compiling the engine, which happens once in a call, however many images."""
        return self._ratio([one.seconds["total"] - one.seconds["start"] for one in self.trials])

    @property
    def ratio_of_cpu(self) -> Ratio | None:
        """How many times as much processor time predict takes. Other work on the machine does not change it."""
        alone = [one.alone.cpu_seconds for one in self.trials]
        return speed_up(alone, [one.cpu_seconds["total"] for one in self.trials])

    def _ratio(self, seconds: Sequence[float]) -> Ratio | None:
        return speed_up([one.alone.seconds for one in self.trials], seconds)

    @property
    def engine_busy(self) -> float:
        """Share of the time in which the engine computed."""
        return self.mean("infer") / self.mean("total")

    @property
    def peak_memory_mb(self) -> float | None:
        """Largest memory of the trials' processes in MB."""
        peaks = [one.peak_memory_mb for one in self.trials if one.peak_memory_mb is not None]
        return max(peaks, default=None)

    def stages(self) -> dict[str, dict[str, float]]:
        """Return stage -> "seconds" and "cpu_seconds", means over the trials; the last one is "total"."""
        names = list(dict.fromkeys(stage for one in self.trials for stage in one.seconds))
        return {name: {"seconds": self.mean(name), "cpu_seconds": self.mean(name, cpu=True)} for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types. It has the names of the images, and no path."""
        last = self.trials[-1]
        return {
            "schema": SCHEMA,
            "images": [Path(source).name for source in self.request.sources],
            **{name: getattr(self.request, name) for name in ("engine", "batch", "threads")},
            "formats": list(self.request.formats),
            "tiles": last.alone.tiles,
            "tile_megapixels": last.alone.megapixels,
            "mm2": last.mm2,
            "nuclei": last.nuclei,
            "interrupted": self.interrupted,
            "stages": self.stages(),
            "end_to_end_s": [one.seconds["total"] for one in self.trials],
            "engine_alone_s": [one.alone.seconds for one in self.trials],
            "cpu_s": [one.cpu_seconds["total"] for one in self.trials],
            "engine_alone_cpu_s": [one.alone.cpu_seconds for one in self.trials],
            **{
                name: msgspec.to_builtins(getattr(self, name))
                for name in ("ratio", "ratio_without_start", "ratio_of_cpu", "engine_busy", "peak_memory_mb")
            },
            "mm2_per_s": last.mm2 / self.mean("total"),
            "seconds_per_mm2": self.mean("total") / last.mm2 if last.mm2 else None,
            "timeline": [list(event) for event in last.timeline],
            "environment": self.environment,
        }

    def table(self) -> "Table":
        """Return a row for each stage."""
        from rich.table import Table

        table = Table("stage", "seconds", "of the time", "CPU, s", "of the CPU")
        whole = self.stages()["total"]
        for name, row in self.stages().items():
            shares = [f"{row[key] / whole[key]:.0%}" if whole[key] else "–" for key in ("seconds", "cpu_seconds")]
            table.add_row(name, f"{row['seconds']:.2f}", shares[0], f"{row['cpu_seconds']:.2f}", shares[1])
        return table

    def messages(self) -> list[str]:
        """Return what the table does not show."""
        last, total, peak = self.trials[-1], self.mean("total"), self.peak_memory_mb
        alone = fmean(one.alone.seconds for one in self.trials)
        lines = [
            f"{last.nuclei:,} nuclei in {last.mm2:.3f} mm² of tissue, {last.alone.tiles} tiles: "
            f"{last.mm2 / total:.3f} mm²/s" + (f", {total / last.mm2:.2f} s/mm²" if last.mm2 else ""),
            f"the engine computes {self.engine_busy:.0%} of the time"
            + (f"; peak memory {peak:,.0f} MB" if peak is not None else ""),
        ]
        if self.ratio and self.ratio_without_start and self.ratio_of_cpu:
            lines.append(
                f"end to end against the engine alone ({alone:.2f} s): {self.ratio}, without its start "
                f"{self.ratio_without_start}, processor time {self.ratio_of_cpu}"
            )
        return [*lines, *(["interrupted: fewer trials than asked for"] if self.interrupted else [])]


def bench_predict(
    bundle: "Bundle",
    images: Sequence[Path],
    engines: Sequence[str] | None,
    *,
    formats: str,
    batches: Sequence[int] | None,
    threads: Sequence[int] | None,
    rounds: int,
    json: Path | None,
    timeline: Path | None,
) -> None:
    """Run predict and its engine alone in turns, each time in a new process, and report by stage.

    Raises:
        BadInput: There is more than one engine, batch size or number of threads, or an image or option is wrong.
        DeployError: See `run_trial`.
        KeyboardInterrupt: After what was measured is written.
    """
    request = _request(bundle, images, engines, formats, batches, threads)
    trials: list[Trial] = []
    try:
        _measure(request, rounds, trials)
    except KeyboardInterrupt:
        _show(request, trials, json, timeline, interrupted=True)
        raise
    _show(request, trials, json, timeline)


def _request(
    bundle: "Bundle",
    images: Sequence[Path],
    engines: Sequence[str] | None,
    formats: str,
    batches: Sequence[int] | None,
    threads: Sequence[int] | None,
) -> Request:
    """Check all that can be checked before anything slow."""
    from msal_deploy.prediction.checks import check_formats, names_of
    from msal_deploy.runtimes import open_engine

    for values, option in ((engines, "--engine"), (batches, "--batch"), (threads, "--threads")):
        if values is not None and len(values) > 1:
            raise BadInput(f"--predict takes one {option}, got {len(values)}", "run the command once for each")
    names_of(images)
    chosen = tuple(name.strip() for name in formats.split(",") if name.strip())
    check_formats(chosen)
    batch, number = batches[0] if batches else 1, threads[0] if threads else None
    engine = open_engine(bundle, engines[0] if engines else None, threads=number).id
    return Request(tuple(map(str, images)), str(bundle.path), engine, chosen, batch, number)


def _measure(request: Request, rounds: int, trials: "list[Trial]") -> None:
    from rich.console import Console
    from rich.progress import track

    description = f"predict and {request.engine} alone"
    for _ in track(range(rounds), description, console=Console(stderr=True)):
        trials.append(run_trial(request))


def _show(
    request: Request, trials: "Sequence[Trial]", json: Path | None, timeline: Path | None, *, interrupted: bool = False
) -> None:
    """Write the files, then print the table."""
    from rich.console import Console

    from msal_deploy.bench import describe_machine
    from msal_deploy.files import atomic_file, write_json
    from msal_deploy.prediction.outputs.charts import timeline as chart

    if not trials:
        return
    report = PipelineReport(request, tuple(trials), interrupted, describe_machine())
    if json:
        write_json(json, report.to_json())
    if timeline:
        with atomic_file(timeline) as temporary:
            temporary.write_text(chart(report.trials[-1].timeline), encoding="utf-8")
    console = Console()
    console.print(report.table())
    console.print(*report.messages(), sep="\n", highlight=False, markup=False, soft_wrap=True)
