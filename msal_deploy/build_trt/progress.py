"""Run a build with a progress bar, and cancel it on Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from msal_deploy.trt.bindings import Backend

if TYPE_CHECKING:
    import tensorrt as trt

Result = TypeVar("Result")
POLL_SECONDS = 0.1  # how long the main thread may take to notice Ctrl-C


def run_build(backend: Backend, config: trt.IBuilderConfig, build: Callable[[], Result], *, progress: bool) -> Result:
    """Return the result of `build`, with a progress bar on stderr if `progress`.

    The build runs in a separate thread: Python handles Ctrl-C in the main thread, which TensorRT would block until the
    build ends. On Ctrl-C the build is cancelled and awaited, if this TensorRT can cancel (from 10 on).
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("build-trt", total=None)
        cancelled = threading.Event()
        can_cancel = backend.member("IProgressMonitor", "step_complete") is not None
        if can_cancel:
            config.progress_monitor = _monitor(backend.trt, bar, task, cancelled)
        return _in_thread(build, cancelled, wait=can_cancel)


def _in_thread(build: Callable[[], Result], cancelled: threading.Event, *, wait: bool) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()  # an interrupted Thread.join marks the thread as ended (before Python 3.13)

    def work() -> None:
        try:
            results.append(build())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    # A daemon thread, so that a build that cannot be cancelled does not block the exit.
    thread = threading.Thread(target=work, name="build-trt", daemon=True)
    try:
        thread.start()
        while not done.wait(POLL_SECONDS):
            pass
    except BaseException:
        cancelled.set()
        while wait and thread in threading.enumerate():
            done.wait(POLL_SECONDS)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _monitor(module: Any, bar: Progress, task: Any, cancelled: threading.Event) -> trt.IProgressMonitor:
    """Return a monitor that updates `bar`, and that stops the build once `cancelled` is set."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._root = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._root = phase_name
                bar.update(task, total=num_steps, completed=0)
            bar.update(task, description=phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._root:
                bar.update(task, completed=step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._root:
                bar.update(task, description="build-trt")

    monitor: trt.IProgressMonitor = Monitor()
    return monitor
