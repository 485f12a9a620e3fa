"""Use the product again and again in one process: do memory and open descriptors stay flat?

    python tests/soak/load.py --minutes 30 --json benchmarks/results/DATE-soak-load.json

Each round opens an engine, computes images of several sizes, segments an image, reads a data set, predicts an image
into a folder, and is refused a few times. After a warm-up, the resident memory and the number of open descriptors are
recorded with each round, and a line is fitted to them.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import good
from stage import import_everything, in_fork, quietly

WARM_UP = 0.2  # share of the time, in which caches fill
FLAT_MIB_PER_HOUR, FLAT_DESCRIPTORS = 60.0, 0
SIZES = ((64, 64), (96, 128), (256, 256))


def one_round(folder: Path, index: int) -> None:
    """Use every part once."""
    from msal_deploy.bundle import Bundle
    from msal_deploy.data import verify
    from msal_deploy.errors import BadInput
    from msal_deploy.prediction import predict_all
    from msal_deploy.runtimes import open_engine

    bundle = Bundle(folder / "bundle")
    engines = ("openvino:fp32", "onnxruntime:fp32", "onnxruntime:int8")
    with open_engine(bundle, engines[index % len(engines)]) as engine:
        for height, width in SIZES:
            engine(np.zeros((1 + index % 2, height, width, 3), np.uint8))
        engine.segment(np.zeros((700, 300, 3), np.uint8), tile=256)
        with suppress(BadInput):
            engine(np.zeros((1, 33, 33, 3), np.uint8))
    verify(folder / "data")
    out = folder / "predicted"
    shutil.rmtree(out, ignore_errors=True)
    predict_all([folder / "image.png"], out, bundle=bundle, engine=good.ENGINE, mpp=0.25)
    for damaged in (folder / "nowhere", folder / "data"):
        with suppress(BadInput):
            Bundle(damaged)


def used() -> tuple[float, int]:
    """Return this process's resident memory in MiB and its open descriptors."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len([*Path("/proc/self/fd").iterdir()])


def measure(folder: Path, minutes: float) -> dict[str, object]:
    """Run rounds for some minutes, and return what they used."""
    start, rows = time.monotonic(), []
    while (hours := (time.monotonic() - start) / 3600) < minutes / 60:
        one_round(folder, len(rows))
        rows.append((hours, *used()))
    kept = np.array([row for row in rows if row[0] >= WARM_UP * minutes / 60])
    memory, descriptors = (float(np.polyfit(kept[:, 0], kept[:, column], 1)[0]) for column in (1, 2))
    return {
        "format_version": 1,
        "minutes": minutes,
        "rounds": len(rows),
        "after_warm_up": len(kept),
        "mib": [round(float(value), 1) for value in (kept[0, 1], kept[:, 1].max(), kept[-1, 1])],
        "mib_per_hour": round(memory, 2),
        "descriptors": [int(value) for value in (kept[0, 2], kept[:, 2].max(), kept[-1, 2])],
        "descriptors_per_hour": round(descriptors, 3),
    }


def main() -> int:
    """Measure, and compare with what is flat."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        import_everything()
        assert in_fork(lambda: quietly(good.make, work / "good")) == 0
        report = measure(work / "good", chosen.minutes)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(report, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    first, most, _ = report["descriptors"]
    return int(report["mib_per_hour"] > FLAT_MIB_PER_HOUR or most > first + FLAT_DESCRIPTORS)


if __name__ == "__main__":
    sys.exit(main())
