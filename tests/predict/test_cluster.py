"""The same bytes from Dask workers as from one process; a worker that dies costs nothing but time."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from dark_bundle import write_dark_bundle
from distributed import Client, LocalCluster, WorkerPlugin
from PIL import Image

from msal_deploy import Bundle
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import MissingRequirement
from msal_deploy.prediction import predict_all

OPTIONS = {"engine": "openvino:fp32", "tile": 128, "overlap": 32, "formats": ["geojson", "tiff"]}


class DieOnce(WorkerPlugin):
    """The worker that comes to the third region first is killed, as by the kernel when memory runs out."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def setup(self, worker):
        from msal_deploy.prediction import cluster

        original, mark = cluster._steps, self.mark

        def dying(job):
            if list((Path(job.folder) / "tiles").glob("*.image.npy"))[2:] and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(job)

        cluster._steps = dying


@pytest.fixture(scope="module", autouse=True)
def small_regions():
    """Nine regions of 2 × 2 tiles in each image, so that there is something to share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msal_deploy.prediction.grid.REGION", 256)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[Path]]:
    folder = tmp_path_factory.mktemp("inputs")
    write_dark_bundle(folder / "bundle")
    paths = []
    for seed in (0, 1):
        image, _ = draw_tissue(np.random.default_rng(seed), 640)
        paths.append(folder / f"tissue-{seed}.png")
        Image.fromarray(image).save(paths[-1])
    return Bundle(folder / "bundle"), paths


@pytest.fixture(scope="module")
def expected(inputs: tuple[Bundle, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    bundle, paths = inputs
    out = tmp_path_factory.mktemp("here") / "out"
    predict_all(paths, out, bundle=bundle, **OPTIONS).require_passed()
    return files(out)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.glob("*/**/*")) if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_two_workers_write_the_same_bytes(inputs, expected, tmp_path: Path) -> None:
    bundle, paths = inputs
    report = predict_all(paths, tmp_path / "out", bundle=bundle, workers=2, threads=1, **OPTIONS)
    report.require_passed()
    assert files(tmp_path / "out") == expected
    assert {record.nuclei > 0 for record in report.slides.values()} == {True}


def test_a_worker_that_dies_is_replaced(inputs, expected, tmp_path: Path) -> None:
    bundle, paths = inputs
    mark = tmp_path / "died"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(DieOnce(mark))
        address = cluster.scheduler_address
        predict_all(paths, tmp_path / "out", bundle=bundle, dask=address, threads=1, **OPTIONS).require_passed()
    assert mark.exists()
    assert files(tmp_path / "out") == expected


def test_a_scheduler_that_does_not_answer(inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, paths = inputs
    monkeypatch.setattr("msal_deploy.prediction.cluster.TIMEOUT", 1)
    with pytest.raises(MissingRequirement, match=r"No Dask scheduler answers at tcp://127.0.0.1:1 "):
        predict_all(paths, tmp_path / "out", bundle=bundle, dask="tcp://127.0.0.1:1", **OPTIONS)
