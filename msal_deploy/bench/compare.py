"""Compare two runs of bench: what got slower, what got faster, beyond noise.

What is compared is speed-up over the baseline, because latencies differ from machine to machine and from day to day,
and the baseline was timed under the same conditions. A change is the new speed-up divided by the old one.

Its interval has three parts, which are added as variances of logarithms: the interval of each of the two speed-ups, and
`BETWEEN_RUNS`, what an interval within a run cannot contain. Each speed-up has few observations (processes), so the
quantile is Student's, with the degrees of freedom of Welch and Satterthwaite. It is Bonferroni's for the number of
comparisons: of 40 pairs of runs of the same thing, one has an engine that seems slower, however many engines there are.
``tests/bench/test_compare.py`` counts that by simulation.

Sources: Welch, "The generalization of 'Student's' problem when several different population variances are involved",
Biometrika 34 (1947) 28; Zou and Donner, "Construction of confidence limits about effect measures: a general approach",
Stat. Med. 27 (2008) 1693, for the distance to the limit on the side in question.
"""

from collections.abc import Sequence
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from msal_deploy.bench.formats import SavedReport, SavedResult, default_threads
from msal_deploy.bench.ratios import CONFIDENCE, Ratio
from msal_deploy.errors import BadInput, GateFailed

if TYPE_CHECKING:
    from rich.table import Table

BETWEEN_RUNS = 0.01  # assumed standard deviation of what the processes of a run share: a day, a kernel, a host
TAIL = (1 - CONFIDENCE) / 2

Verdict = Literal["slower", "faster", "same"]


class Change(msgspec.Struct, frozen=True):
    """How the speed-up of an engine changed.

    >>> then, now, change = Ratio(5.0, 4.9, 5.1), Ratio(4.0, 3.9, 4.1), Ratio(0.8, 0.76, 0.84)
    >>> Change(("openvino:int8", 1, None, 1), then, now, change).verdict
    'slower'

    Attributes:
        setting: Engine, batch, threads and streams.
        old, new: Speed-up over the baseline.
        change: The new one divided by the old one, with an interval that holds for all comparisons together.
    """

    setting: tuple[str, int, int | None, int]
    old: Ratio
    new: Ratio
    change: Ratio

    @property
    def verdict(self) -> Verdict:
        """Whether the engine got slower or faster beyond noise."""
        if self.change.high < 1:
            return "slower"
        return "faster" if self.change.low > 1 else "same"

    @property
    def name(self) -> str:
        """The setting in words, such as ``openvino:int8, batch 4, 2 threads``."""
        return setting_name(self.setting)


class Comparison(msgspec.Struct, frozen=True):
    """The comparison of two runs.

    Attributes:
        baseline: Engine that both are relative to.
        changes: One for each setting with a speed-up in both, without the baseline.
        failed: Settings that were timed then and failed now.
        only_old, only_new: Settings that are only in one of the two.
        other_machine: How the machines differ; empty if they do not. Speed-ups hold for one machine, so nothing is
            judged if they differ.
        remarks: What else the reader should know.
    """

    baseline: str
    changes: tuple[Change, ...]
    failed: tuple[str, ...] = ()
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()
    other_machine: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def slower(self) -> tuple[Change, ...]:
        """What got slower beyond noise."""
        return tuple(one for one in self.changes if one.verdict == "slower")

    def require_not_slower(self) -> None:
        """Raise `GateFailed` if something got slower beyond noise, or fails now. On another machine, nothing does."""
        if self.other_machine:
            return
        parts = [
            f"{one.name}: {_percent(one.change)} ({one.old.ratio:.2f}× {self.baseline} then, {one.new.ratio:.2f}× now)"
            for one in self.slower
        ]
        parts += [f"{name} fails now" for name in self.failed]
        if parts:
            raise GateFailed(f"Slower than before, beyond noise: {'; '.join(parts)}", "run it again on an idle machine")

    def messages(self) -> tuple[str, ...]:
        """Return what the table does not show, one sentence each."""
        named = {"Only in the old report": self.only_old, "Only in the new report": self.only_new}
        lines = [f"{what}: {', '.join(names)}." for what, names in named.items() if names]
        if self.failed:
            lines.append(f"Timed then, and fails now: {', '.join(self.failed)}.")
        if self.other_machine:
            lines.append(f"Another machine: {self.other_machine}. Speed-ups hold for one machine: nothing is judged.")
        return (*lines, *self.remarks)

    def table(self) -> "Table":
        """Return the changes as a table for an 80-column terminal."""
        from rich import box
        from rich.table import Table

        table = Table(
            title=f"Speed-up over {self.baseline}, then and now",
            caption="Change with an interval of 95% for all rows together.",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("engine")
        for column in ("then", "now", "change", ""):
            table.add_column(column, justify="right", no_wrap=True)
        for one in self.changes:
            table.add_row(
                one.name, f"{one.old.ratio:.2f}×", f"{one.new.ratio:.2f}×", _percent(one.change), self._mark(one)
            )
        return table

    def _mark(self, one: Change) -> str:
        if self.other_machine:
            return ""
        return {"slower": "[red]slower[/]", "faster": "[green]faster[/]", "same": ""}[one.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        changes = [{**msgspec.to_builtins(one), "verdict": one.verdict} for one in self.changes]
        return {**msgspec.to_builtins(self), "changes": changes}


def check_comparable(old: SavedReport, baseline: str, size: tuple[int, int]) -> None:
    """Raise `BadInput` if a run with this baseline and image size could not be compared with an earlier report.

    Raises:
        BadInput: The report has no speed-up, another baseline or another size.
    """
    if not any(one.speed_up for one in old.results if one.engine != old.baseline):
        raise BadInput(
            "The old report has no speed-up to compare with",
            "write it again, with two engines or more and without an interruption",
        )
    if old.baseline != baseline:
        cause = f"The old report has speed-ups over {old.baseline}, and the new one over {baseline}"
        raise BadInput(cause, f"add --baseline {old.baseline}")
    sizes = {one.size for one in old.results}
    if sizes != {size}:
        height, width = old.results[0].size
        raise BadInput(
            f"The old report is of images of {height} × {width} px, and the new one of {size[0]} × {size[1]}",
            f"add --size {height}x{width}",
        )


def compare(old: SavedReport, new: SavedReport) -> Comparison:
    """Compare two reports, whose ratios are over the same baseline and for images of the same size.

    ::

        comparison = compare(read_report("yesterday.json"), read_report("today.json"))
        comparison.require_not_slower()

    Raises:
        BadInput: Their baselines or image sizes differ, or they have no setting with a speed-up in common.
    """
    for size in {one.size for one in new.results}:
        check_comparable(old, new.baseline, size)
    before, after = (_ratios(report) for report in (old, new))
    common = [setting for setting in before if setting in after]
    failing = {(one.engine, one.batch, one.threads, one.streams) for one in new.failed}
    if not common and failing.isdisjoint(before):
        raise BadInput("The two reports have no setting in common", "time the same engines, batches and threads again")
    return Comparison(
        baseline=old.baseline,
        changes=tuple(_change(before[setting], after[setting], len(common)) for setting in common),
        failed=tuple(setting_name(one) for one in before if one in failing),
        only_old=tuple(setting_name(one) for one in before if one not in after and one not in failing),
        only_new=tuple(setting_name(one) for one in after if one not in before),
        other_machine=_other_machine(old.environment, new.environment),
        remarks=tuple(_remarks(old, new)),
    )


def _ratios(report: SavedReport) -> dict[tuple[str, int, int | None, int], SavedResult]:
    """Return setting -> result, of those with a speed-up that is not one by definition."""
    return {
        one.setting: one
        for one in report.results
        if one.speed_up and not (one.engine == report.baseline and one.speed_up == Ratio(1.0, 1.0, 1.0))
    }


def setting_name(setting: tuple[str, int, int | None, int]) -> str:
    """Return a setting in words.

    >>> setting_name(("openvino:int8", 4, 2, 1)), setting_name(("torch:fp32", 1, None, 1))
    ('openvino:int8, batch 4, 2 threads', 'torch:fp32, batch 1')
    """
    engine, batch, threads, streams = setting
    parts = [engine, f"batch {batch}"]
    parts += [f"{threads} threads"] if threads else []
    parts += [f"{streams} streams"] if streams > 1 else []
    return ", ".join(parts)


def _change(old: SavedResult, new: SavedResult, comparisons: int) -> Change:
    then, now = old.speed_up, new.speed_up
    assert then is not None  # `_ratios` has chosen them
    assert now is not None
    difference = log(now.ratio / then.ratio)
    freedom = [_degrees_of_freedom(one) for one in (new, old)]
    down = _margin([log(now.ratio / now.low), log(then.high / then.ratio)], freedom, comparisons)
    up = _margin([log(now.high / now.ratio), log(then.ratio / then.low)], freedom, comparisons)
    change = Ratio(exp(difference), exp(difference - down), exp(difference + up))
    return Change(old.setting, then, now, change)


def _degrees_of_freedom(one: SavedResult) -> int:
    """Return how many observations the interval of a speed-up is made of, less one; see `ratios.speed_up`."""
    windows = len(one.window_medians_ms)
    per_process = one.windows_per_process if windows > one.windows_per_process else 1
    return max(1, -(-windows // per_process) - 1)


def _margin(halves: Sequence[float], freedom: Sequence[int], comparisons: int) -> float:
    """Return the half-width of the interval of a difference of logarithms.

    Args:
        halves: Half-widths of the two intervals, on the side in question.
        freedom: Degrees of freedom of the two.
        comparisons: How many differences there are.
    """
    from scipy.special import stdtrit

    variances = [(half / stdtrit(df, 1 - TAIL)) ** 2 for half, df in zip(halves, freedom, strict=True)]
    total = sum(variances) + 2 * BETWEEN_RUNS**2
    # The part between runs is a constant, with no uncertainty: it adds to the sum, and not to the denominator.
    uncertain = sum(variance**2 / df for variance, df in zip(variances, freedom, strict=True))
    quantile = stdtrit(total**2 / uncertain if uncertain else 1e9, 1 - TAIL / comparisons)
    return float(quantile * sqrt(total))


def _percent(change: Ratio) -> str:
    """Return a change in percent of speed with its interval."""
    middle, low, high = (100 * (value - 1) for value in (change.ratio, change.low, change.high))
    return f"{middle:+.1f}% ({low:+.1f} to {high:+.1f})"


def _other_machine(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return how two machines differ in what ratios depend on; empty if they do not."""
    pairs = {
        "processor": (old.get("processor"), new.get("processor")),
        "instructions": (old.get("instructions"), new.get("instructions")),  # clouds hide the model of a processor
        "GPUs": (old.get("gpus"), new.get("gpus")),
        "threads": (default_threads(old), default_threads(new)),
    }
    return "; ".join(
        f"{what} {_shown(one)} then, {_shown(two)} now" for what, (one, two) in pairs.items() if one != two
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def _remarks(old: SavedReport, new: SavedReport) -> list[str]:
    """Return remarks on versions that changed, and on reports that were interrupted or measured on a busy machine."""
    from msal_deploy.bench.table import BUSY

    then, now = (dict(report.environment.get("versions") or {}) for report in (old, new))
    changed = [f"{name} {then[name]} → {now[name]}" for name in then if name in now and then[name] != now[name]]
    remarks = [f"Other versions: {', '.join(changed)}."] if changed else []
    for which, report in (("old", old), ("new", new)):
        if report.interrupted:
            remarks.append(f"The {which} report was interrupted.")
        if (busy := report.environment.get("busy_before") or 0) > BUSY:
            remarks.append(f"The machine was {busy:.0%} busy before the {which} run: that alone can change a speed-up.")
    return remarks
