"""Clock: which stage of a run worked from when to when, and how much processor time it took.

===========  =======================================================================================================
`start`      the engine opens and compiles
`read`       the bytes of the file, whose hash is the image's identity
`decode`     bytes to pixels at the model's resolution: a picture as a whole, a slide region by region
`tissue`     what is worth computing, on a small picture
`tile`       padding and cutting tiles
`infer`      the engine
`stitch`     tiles to one probability map
`separate`   the map to labels
`measure`    labels to outlines and features
`write`      what a run resumes from
`outputs`    the files of ``--format``
`page`       index.html
===========  =======================================================================================================
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

STAGES = (
    *("start", "read", "decode", "tissue", "tile", "infer"),
    *("stitch", "separate", "measure", "write", "outputs", "page"),
)


class Event(NamedTuple):
    """One piece of work.

    Attributes:
        stage: Of `STAGES`.
        region: Such as ``3-12``, or ``all``.
        begin, end: Seconds since the start of the clock.
        cpu: Its processor time in seconds: that of its thread. An engine also works in threads of its own.
    """

    stage: str
    region: str
    begin: float
    end: float
    cpu: float


@dataclass
class Clock:
    """The stages of a run: what was done from when to when, in seconds since `start`, which other machines share."""

    start: float = field(default_factory=time.time)
    events: list[Event] = field(default_factory=list)

    @contextmanager
    def time(self, stage: str, region: str = "all", *, whole_process: bool = False) -> Iterator[None]:
        """Record the block as one event.

        Args:
            stage: Of `STAGES`.
            region: Such as ``3-12``.
            whole_process: Count the processor time of all threads. What little else works meanwhile counts twice.
        """
        processor = time.process_time if whole_process else time.thread_time
        begin, cpu = time.time() - self.start, processor()
        yield
        end, cpu = time.time() - self.start, processor() - cpu
        self.events.append(Event(stage, region, round(begin, 4), round(end, 4), round(cpu, 6)))


def shifted(events: Sequence[Event], seconds: float) -> list[Event]:
    """Return events of a clock that started that much later.

    >>> shifted([Event("read", "0-0", 1.0, 2.0, 0.5)], 10)
    [Event(stage='read', region='0-0', begin=11.0, end=12.0, cpu=0.5)]
    """
    return [
        event._replace(begin=round(event.begin + seconds, 4), end=round(event.end + seconds, 4)) for event in events
    ]


def work(events: Sequence[Event]) -> dict[str, float]:
    """Return the seconds of work of each stage. Stages overlap, so they may add up to more than the time that passed.

    >>> work([Event("read", "0-0", 1.0, 2.0, 0.25), Event("read", "0-1", 2.0, 2.5, 0.5)])
    {'read': 1.5}
    """
    return _sums((event.stage, event.end - event.begin) for event in events)


def processor_time(events: Sequence[Event]) -> dict[str, float]:
    """Return the seconds of processor time of each stage, of the threads that `Clock.time` ran in.

    >>> processor_time([Event("read", "0-0", 1.0, 2.0, 0.25), Event("read", "0-1", 2.0, 2.5, 0.5)])
    {'read': 0.75}
    """
    return _sums((event.stage, event.cpu) for event in events)


def _sums(parts: Iterator[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for stage, seconds in parts:
        sums[stage] += seconds
    order = sorted(sums, key=STAGES.index)
    return {stage: round(sums[stage], 4) for stage in order}
