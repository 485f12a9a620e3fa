"""The steps of a region: the same probabilities and nuclei as from one pass over the whole image."""

import threading

import numpy as np
import pytest
from plain_slide import PlainEngine, PlainSlide, discs, plain_steps

from msal_deploy.instances import separate
from msal_deploy.prediction.pipeline import run_pipeline
from msal_deploy.prediction.schedule import Schedule
from msal_deploy.prediction.steps import Steps
from msal_deploy.runtimes.tiling import segment


class EdgeEngine(PlainEngine):
    """Each tile's probabilities depend on the place in the tile, so that blending matters."""

    def __call__(self, images):
        height, width = images.shape[1:3]
        slope = np.linspace(0.8, 1.0, height, dtype=np.float32)[:, None] * np.linspace(0.9, 1, width, dtype=np.float32)
        return super().__call__(images) * slope


def regions_of(steps):
    return list(steps.folder.regions())


@pytest.mark.parametrize("group", [1, 2, 3])
def test_probabilities_are_those_of_segment_on_the_whole_image(tmp_path, group):
    image = np.random.default_rng(0).integers(0, 180, (700, 900, 3), dtype=np.uint8)
    steps = plain_steps(PlainSlide(image), tmp_path, EdgeEngine(), tile=256, overlap=64, group=group)
    assert run_pipeline(steps) == {}
    whole = np.rint(segment(EdgeEngine(), image, tile=256, overlap=64) * 255)
    assert len(regions_of(steps)) == steps.grid.shape[0] * steps.grid.shape[1]
    for region in regions_of(steps):
        top, left, height, width = region.core
        np.testing.assert_array_equal(region.probability, whole[top : top + height, left : left + width])


def test_discs_on_every_seam_and_corner_come_back_once_and_whole(tmp_path):
    steps = plain_steps(PlainSlide(discs(900, 900, [])), tmp_path / "empty", tile=256, overlap=64, group=2)
    cores = [steps.grid.core(*region) for region in steps.grid.regions()]
    rows, columns = sorted({core.top for core in cores} - {0}), sorted({core.left for core in cores} - {0})
    assert len(rows) == len(columns) == 2
    centres = [(row, column) for row in rows for column in columns]  # corners
    centres += [(row, 50) for row in rows] + [(50, column) for column in columns]  # seams
    centres += [(row - 12, 150) for row in rows] + [(row + 12, 850) for row in rows]  # touching a seam
    image = discs(900, 900, centres)
    steps = plain_steps(PlainSlide(image), tmp_path / "discs", tile=256, overlap=64, group=2)
    run_pipeline(steps)
    whole = separate(segment(PlainEngine(), image, tile=256, overlap=64))
    assert whole.max() == len(centres)
    areas = sorted(area for region in regions_of(steps) for area in region.nuclei.features["area_um2"])
    # Each has the area of its disc in one pass over the image, in µm² of 0.25 µm pixels.
    assert areas == pytest.approx(sorted(np.bincount(whole.ravel())[1:] / 16))
    found = sorted(
        (round(y - 0.5), round(x - 0.5))
        for region in regions_of(steps)
        for x, y in zip(region.nuclei.features["x"], region.nuclei.features["y"], strict=True)
    )
    assert found == sorted(centres)


def test_background_is_not_computed(tmp_path):
    image = np.full((300, 2000, 3), 240, np.uint8)
    image[100:130, 100:130] = (120, 60, 140)
    steps = plain_steps(PlainSlide(image), tmp_path, tile=256, overlap=64, group=2)
    run_pipeline(steps)
    # The nucleus ends at column 130, 24 µm around it end at about 230. Of 2 × 11 tiles, those at columns 0 and 174 show
    # that; the next start at 348.
    assert [span.tile.start for span in steps.grid.columns][:3] == [0, 174, 348]
    assert len(steps.grid.columns) == 11
    assert steps.engine.calls == 4
    assert sum(len(region.nuclei) for region in regions_of(steps)) == 1


def test_a_damaged_part_is_reported_and_the_rest_is_complete(tmp_path):
    image = discs(900, 900, [(100, 100), (100, 800), (800, 100), (800, 800)])
    steps = plain_steps(PlainSlide(image, damaged=(820, 820)), tmp_path, tile=256, overlap=64, group=2)
    failed = run_pipeline(steps)
    assert failed == {"2-2": "plain is damaged at (820, 820); copy it again"}
    assert sum(len(region.nuclei) for region in regions_of(steps)) == 3
    assert not steps.folder.region_path(2, 2).exists()


@pytest.mark.parametrize("fail_at", [0, 1, 5, 12, 24])
def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(tmp_path, fail_at):
    image = discs(900, 900, [(row, column) for row in range(40, 900, 90) for column in range(40, 900, 90)])
    steps = plain_steps(PlainSlide(image), tmp_path / "whole", EdgeEngine(), tile=256, overlap=64, group=2)
    run_pipeline(steps)
    interrupted = plain_steps(PlainSlide(image), tmp_path / "two", EdgeEngine(fail_at), tile=256, overlap=64, group=2)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(interrupted)
    again = plain_steps(PlainSlide(image), tmp_path / "two", EdgeEngine(), tile=256, overlap=64, group=2)
    left = len(Schedule(again).tiles)
    run_pipeline(again)
    assert left < 9 or fail_at < 4  # a region that was complete is not computed again
    names = sorted(path.name for path in (tmp_path / "whole" / "regions").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two" / "regions").iterdir())
    for name in names:
        first, second = ((tmp_path / run / "regions" / name).read_bytes() for run in ("whole", "two"))
        assert first == second, name


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (12, 3), (64, 4)])
def test_more_cores_find_nuclei_in_more_threads_with_the_same_result(tmp_path, monkeypatch, cores, threads):
    image = discs(900, 900, [(row, column) for row in range(40, 900, 90) for column in range(40, 900, 90)])
    names: set[str] = set()
    find = Steps.find_nuclei

    def noted(steps, row, column):
        names.add(threading.current_thread().name)
        find(steps, row, column)

    run_pipeline(plain_steps(PlainSlide(image), tmp_path / "one", tile=256, overlap=64, group=1))
    monkeypatch.setattr("msal_deploy.prediction.pipeline.available_cores", lambda: cores)
    monkeypatch.setattr(Steps, "find_nuclei", noted)
    run_pipeline(plain_steps(PlainSlide(image), tmp_path / "more", tile=256, overlap=64, group=1))
    # A thread pool starts a thread only if none is idle, so the number of threads is a bound.
    assert {name.rpartition("_")[0] for name in names} == {"nuclei"} and 1 <= len(names) <= threads
    regions = sorted((tmp_path / "one" / "regions").iterdir())
    assert len(regions) == 25
    for path in regions:
        assert path.read_bytes() == (tmp_path / "more" / "regions" / path.name).read_bytes(), path.name
    assert list((tmp_path / "more" / "tiles").iterdir()) == []


def test_a_full_disk_ends_the_run_with_its_error(tmp_path, monkeypatch):
    def full(steps, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Steps, "keep", full)
    with pytest.raises(OSError, match="No space left"):
        run_pipeline(plain_steps(PlainSlide(discs(300, 300, [(50, 50)])), tmp_path, tile=256, overlap=64, group=1))


def test_tiles_are_removed_when_no_region_needs_them(tmp_path):
    steps = plain_steps(PlainSlide(discs(900, 900, [(100, 100)])), tmp_path, tile=256, overlap=64, group=2)
    run_pipeline(steps)
    assert list((tmp_path / "tiles").iterdir()) == []
