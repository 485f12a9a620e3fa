"""Time many settings: in rounds, in groups that are open together, and interleaved window by window."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path

import msgspec

from msal_deploy.bench import timing
from msal_deploy.bench.inputs import image_sets
from msal_deploy.bench.results import BenchResult, Failure, Setting
from msal_deploy.bench.session import Session, TimedEngine
from msal_deploy.bench.timing import Timing
from msal_deploy.bench.worker import WorkerSession
from msal_deploy.bundle import Bundle
from msal_deploy.errors import DeployError
from msal_deploy.spec import UInt8Images

MAX_OPEN = 8  # engines at once: each needs up to 1.4 GiB for a batch of 8 images of 512 × 512 px, and seconds to open


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How settings are timed.

    Attributes:
        size: Height and width of the images in pixels.
        seconds: Length of a time window in seconds.
        windows: Number of time windows of each setting in a round.
        rounds: How often every engine is started anew.
        min_runs: Minimum number of runs in a window; None for `timing.MIN_RUNS`.
        in_process: Whether engines are opened in this process, instead of a process for each.
        images: A folder of images to cut tiles from; None for synthetic tissue.
    """

    size: tuple[int, int]
    seconds: float
    windows: int
    rounds: int
    min_runs: int | None = None
    in_process: bool = False
    images: Path | None = None


class _Record(msgspec.Struct):
    """What has been measured of one setting so far."""

    windows: list[tuple[float, ...]]
    load_s: float | None = None
    peak_memory_mb: float | None = None


class Measurement:
    """Times settings, and keeps what it has measured, whatever ends it.

    Args:
        bundle: The bundle with the graphs.
        groups: What to time: settings that are open together, such as those of `group_settings`.
        plan: How to time it.
        tick: Called after each window, for a progress bar.
    """

    def __init__(
        self, bundle: Bundle, groups: Sequence[Sequence[Setting]], plan: Plan, tick: Callable[[], object] = lambda: None
    ) -> None:
        self._bundle = bundle
        self._plan = plan
        self._tick = tick
        self._groups = groups
        self._records = {setting: _Record([]) for group in groups for setting in group}
        self._failures: dict[Setting, Failure] = {}
        self._images: dict[int, tuple[UInt8Images, ...]] = {}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The settings that could not be timed. Their results, if there were any, are left out."""
        return tuple(self._failures.values())

    @property
    def results(self) -> tuple[BenchResult, ...]:
        """The settings that have been timed so far, in the order in which they were given."""
        return tuple(
            self._result(setting, record)
            for setting, record in self._records.items()
            if record.windows and setting not in self._failures
        )

    def _result(self, setting: Setting, record: _Record) -> BenchResult:
        return BenchResult(
            **msgspec.structs.asdict(setting),
            size=self._plan.size,
            microns_per_pixel=self._bundle.spec.microns_per_pixel,
            timing=Timing(tuple(record.windows), self._plan.windows),
            load_s=record.load_s,
            peak_memory_mb=record.peak_memory_mb,
        )

    def run(self) -> None:
        """Time every setting in every round. A setting that fails is not tried again."""
        for batch in dict.fromkeys(setting.batch for setting in self._records):
            self._images[batch] = image_sets(self._plan.size, batch, folder=self._plan.images)
        for round_index in range(self._plan.rounds):
            for group in self._groups:
                self._time_group(group, first=round_index == 0)

    def _time_group(self, group: Sequence[Setting], *, first: bool) -> None:
        with ExitStack() as stack:
            opened: dict[Setting, TimedEngine] = {
                setting: stack.enter_context(self._session(setting))
                for setting in group
                if setting not in self._failures
            }
            self._open(opened, together=not first and not self._plan.in_process)
            for setting, session in opened.items():
                self._attempt(setting, partial(session.warm_up, self._plan.seconds))
            for window in range(self._plan.windows):
                # Back and forth, so that a machine that slows down steadily favours no engine.
                for setting, session in list(opened.items())[:: -1 if window % 2 else 1]:
                    self._attempt(setting, partial(self._time_window, self._records[setting], session))
                    self._tick()
            for setting, session in opened.items():
                self._attempt(setting, partial(_keep_peak, self._records[setting], session))

    def _session(self, setting: Setting) -> TimedEngine:
        images = self._images[setting.batch]
        if self._plan.in_process:
            return Session(self._bundle, setting, images)
        return WorkerSession(self._bundle, setting, images)

    def _open(self, sessions: dict[Setting, TimedEngine], *, together: bool) -> None:
        """Open engines: one after the other in the first round, so that the time it takes is an engine's own."""
        if together:
            for session in sessions.values():
                session.open()
        for setting, session in sessions.items():
            self._attempt(setting, partial(_finish_opening, self._records[setting], session, together), opened=False)

    def _time_window(self, record: _Record, session: TimedEngine) -> None:
        record.windows.append(session.time_window(self._plan.seconds, self._plan.min_runs or timing.MIN_RUNS))

    def _attempt(self, setting: Setting, step: Callable[[], object], *, opened: bool = True) -> None:
        """Take a step, unless an earlier one of this setting failed. If it fails, go on with the others."""
        if setting in self._failures:
            return
        try:
            step()
        except DeployError as error:
            self._failures[setting] = Failure(setting, error, opened)


def _finish_opening(record: _Record, session: TimedEngine, started: bool) -> None:
    if not started:
        session.open()
    load_s = session.load_s()
    record.load_s = load_s if record.load_s is None else record.load_s


def _keep_peak(record: _Record, session: TimedEngine) -> None:
    peak = session.peak_memory_mb()
    if peak is not None:
        record.peak_memory_mb = max(peak, record.peak_memory_mb or 0)


def group_settings(settings: Sequence[Setting]) -> list[Sequence[Setting]]:
    """Split settings into groups of one batch size with at most `MAX_OPEN` settings each, to be open together."""
    by_batch = [list(group) for _, group in groupby(settings, key=lambda setting: setting.batch)]
    return [group[start : start + MAX_OPEN] for group in by_batch for start in range(0, len(group), MAX_OPEN)]
