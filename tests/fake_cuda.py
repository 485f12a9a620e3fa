"""A fake GPU in host memory.

`FakeGpu` has memory and a simulated clock, and rejects what a real GPU rejects. It runs its streams as late as possible
or in random order, but respects events. Errors that a real GPU ignores, with wrong pixels as the result, raise
`Misuse`: a freed address, memory freed twice, a copy of pageable memory, a graph launched after the shape has changed.
`fake_cuda_packages` has the two packages through which msal_deploy calls it.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

POISON = 0xDD  # fills new and freed memory


class Misuse(AssertionError):
    """The program did something that CUDA forbids but does not check."""


class Fault(Exception):
    """A CUDA error; the argument is its name."""

    @property
    def name(self) -> str:
        return str(self.args[0])


@dataclass
class Work:
    """Work on a stream.

    Attributes:
        kind: ``upload``, ``download``, ``compute``, ``record`` or ``wait``.
        run: Does the work.
        event: Event of a record or a wait.
        count: Number of records after which a wait ends.
        replays: Called before the work is queued again as part of a graph.
    """

    kind: str
    run: Callable[[], None] = lambda: None
    event: int = 0
    count: int = 0
    replays: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Span:
    """When work ran on the simulated clock, in arbitrary units."""

    stream: int
    kind: str
    start: float
    end: float

    def overlaps(self, other: Span) -> bool:
        return self.start < other.end and other.start < self.end


@dataclass
class Stream:
    queue: deque[Work] = field(default_factory=deque)
    until: float = 0.0
    captured: list[tuple[Work, float]] | None = None  # during a capture


class FakeGpu:
    """One GPU.

    Args:
        name: Product name.
        sm: Compute capability.
        memory: Bytes that can be allocated.
        order: None runs work only when it is waited for; an integer seeds a random scheduler.
    """

    def __init__(
        self,
        name: str = "NVIDIA GeForce GTX 1080 Ti",
        sm: tuple[int, int] = (6, 1),
        memory: int = 1 << 30,
        order: int | None = None,
    ) -> None:
        self.name, self.sm, self.memory = name, sm, memory
        self.device: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, tuple[int, float]] = {}  # number of records, and time of the last
        self.reached: Counter[int] = Counter()
        self.captured = 0  # captured graphs that were not destroyed
        self.graphs: dict[int, list[tuple[Work, float]]] = {}
        self.calls: Counter[str] = Counter()
        self.spans: list[Span] = []
        self.fails: dict[str, str] = {}  # call -> error that it returns from now on
        self._graveyard: list[np.ndarray] = []  # freed memory, kept so that no address is used twice
        self._handles = itertools.count(0x5000, 8)
        self._addresses = itertools.count(0x7F0000000000, 1 << 32)
        self._now = 0.0
        self._engines: dict[str, float] = {}
        self._chance = None if order is None else random.Random(order)
        self._lock = threading.RLock()

    # Memory.

    def allocate(self, size: int) -> int:
        self._called("allocate")
        self._not_while_capturing()
        if size + sum(memory.nbytes for memory in self.device.values()) > self.memory:
            raise Fault("cudaErrorMemoryAllocation")
        address = next(self._addresses)
        self.device[address] = np.full(size, POISON, np.uint8)
        return address

    def free(self, address: int) -> None:
        self._called("free")
        self._bury(self.device, address)

    def pin(self, size: int) -> np.ndarray:
        self._called("pin")
        memory = np.full(size, POISON, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return memory

    def unpin(self, address: int) -> None:
        self._called("unpin")
        self._bury(self.pinned, address)

    def _bury(self, kept: dict[int, np.ndarray], address: int) -> None:
        if address not in kept:
            raise Misuse(f"{address:#x} is freed twice, or was never allocated")
        self.finish()  # a real GPU waits, too
        kept[address].fill(POISON)
        self._graveyard.append(kept.pop(address))

    def on_device(self, address: int, size: int) -> np.ndarray:
        """Return uint8[size], a view of the GPU's memory."""
        return self._view(self.device, address, size, "not device memory")

    def on_host(self, address: int, size: int) -> np.ndarray:
        return self._view(self.pinned, address, size, "not pinned: the copy would not be asynchronous")

    def _view(self, kept: dict[int, np.ndarray], address: int, size: int, wrong: str) -> np.ndarray:
        for start, memory in kept.items():
            if start <= address and address + size <= start + memory.nbytes:
                return memory[address - start : address - start + size]
        raise Misuse(f"{size} bytes at {address:#x} are {wrong}")

    # Streams and events.

    def make_stream(self) -> int:
        self._called("stream")
        handle = next(self._handles)
        self.streams[handle] = Stream()
        return handle

    def destroy_stream(self, handle: int) -> None:
        self.finish()
        if self.streams.pop(handle, None) is None:
            raise Misuse("a stream is destroyed twice")

    def make_event(self) -> int:
        self._called("event")
        handle = next(self._handles)
        self.events[handle] = (0, 0.0)
        return handle

    def destroy_event(self, handle: int) -> None:
        self.finish()
        if self.events.pop(handle, None) is None:
            raise Misuse("an event is destroyed twice")

    def upload(self, address: int, host: int, size: int, stream: int) -> None:
        self._called("upload")
        source, target = self.on_host(host, size), self.on_device(address, size)
        self.queue(stream, Work("upload", lambda: np.copyto(target, source)), size)

    def download(self, host: int, address: int, size: int, stream: int) -> None:
        self._called("download")
        source, target = self.on_device(address, size), self.on_host(host, size)
        self.queue(stream, Work("download", lambda: np.copyto(target, source)), size)

    def queue(self, stream: int, work: Work, duration: float) -> None:
        """Queue `work`, which takes `duration` on the clock. The GPU has one engine for each kind of work."""
        with self._lock:
            if self._of(stream).captured is not None:
                self._of(stream).captured.append((work, duration))
                return
            self._of(stream).queue.append(work)
            start = max(self._now, self._of(stream).until, self._engines.get(work.kind, 0.0))
            self._of(stream).until = self._engines[work.kind] = start + duration
            self.spans.append(Span(stream, work.kind, start, start + duration))
            self._run_some()

    def record(self, event: int, stream: int) -> None:
        count, _ = self.events[event]
        self.events[event] = (count + 1, max(self._now, self._of(stream).until))
        self._of(stream).queue.append(Work("record", lambda: self.reached.update((event,)), event))

    def wait(self, stream: int, event: int) -> None:
        count, when = self.events[event]
        self._of(stream).until = max(self._of(stream).until, when)
        self._of(stream).queue.append(Work("wait", event=event, count=count))

    def synchronise(self, stream: int) -> None:
        self._called("synchronise")
        with self._lock:
            if self._of(stream).captured is not None:
                raise Fault("cudaErrorStreamCaptureUnsupported")
            while self._of(stream).queue:
                self._run_first(stream)
            self._now = max(self._now, self._of(stream).until)

    def finish(self) -> None:
        """Run all queued work."""
        for stream in list(self.streams):
            while self.streams[stream].queue:
                self._run_first(stream)

    def _run_first(self, stream: int) -> None:
        work = self.streams[stream].queue[0]
        if work.kind == "wait":
            while self.reached[work.event] < work.count:
                self._run_first(self._recorder(work.event))
        if self.streams[stream].queue and self.streams[stream].queue[0] is work:
            self.streams[stream].queue.popleft()
            work.run()

    def _recorder(self, event: int) -> int:
        for handle, stream in self.streams.items():
            if any(work.kind == "record" and work.event == event for work in stream.queue):
                return handle
        raise Misuse("a stream waits for an event that is not recorded")

    def _run_some(self) -> None:
        while self._chance is not None and self._chance.random() < 0.5:
            busy = [handle for handle, stream in self.streams.items() if stream.queue]
            if not busy:
                return
            self._run_first(self._chance.choice(busy))

    # Graphs.

    def begin_capture(self, stream: int) -> None:
        self._called("begin_capture")
        self._of(stream).captured = []

    def end_capture(self, stream: int) -> list[tuple[Work, float]]:
        captured, self._of(stream).captured = self._of(stream).captured, None
        self._called("end_capture")
        if captured is None:
            raise Fault("cudaErrorStreamCaptureUnmatched")
        self.captured += 1
        return captured

    def make_graph(self, captured: list[tuple[Work, float]]) -> int:
        self._called("make_graph")
        handle = next(self._handles)
        self.graphs[handle] = captured
        return handle

    def launch(self, graph: int, stream: int) -> None:
        self._called("launch")
        if graph not in self.graphs:
            raise Misuse("a destroyed graph is launched")
        for work, duration in self.graphs[graph]:
            work.replays()
            self.queue(stream, work, duration)

    def destroy_graph(self, graph: int) -> None:
        self.finish()
        if self.graphs.pop(graph, None) is None:
            raise Misuse("a graph is destroyed twice")

    # For tests.

    @property
    def left(self) -> Counter[str]:
        """Resources that were not freed."""
        kinds = ("device", "pinned", "streams", "events", "graphs")
        left = Counter({kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)})
        return left + Counter({"captured": self.captured})

    def capturing(self, stream: int) -> bool:
        return self._of(stream).captured is not None

    def _of(self, stream: int) -> Stream:
        if stream not in self.streams:
            raise Misuse(f"{stream!r} is not a stream, or was destroyed")
        return self.streams[stream]

    def _called(self, call: str) -> None:
        self.calls[call] += 1
        if call in self.fails:
            raise Fault(self.fails[call])

    def _not_while_capturing(self) -> None:
        if any(stream.captured is not None for stream in self.streams.values()):
            raise Fault("cudaErrorStreamCaptureUnsupported")
