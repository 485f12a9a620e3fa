"""The steps of a region: the same probabilities and nuclei as from one pass over the whole image."""

import threading

import msgspec
import numpy as np
import pytest
from plain_slide import PlainEngine, PlainSlide, discs, plain_steps

from msal_deploy.errors import BadInput
from msal_deploy.instances import separate
from msal_deploy.prediction import steps as module
from msal_deploy.prediction.clock import Clock, Event, processor_time, shifted, work
from msal_deploy.prediction.pipeline import run_pipeline
from msal_deploy.prediction.schedule import Schedule
from msal_deploy.prediction.steps import Steps, shrink
from msal_deploy.runtimes.tiling import segment


class EdgeEngine(PlainEngine):
    """Each tile's probabilities depend on the place in the tile, so that blending matters."""

    def __call__(self, images):
        height, width = images.shape[1:3]
        slope = np.linspace(0.8, 1.0, height, dtype=np.float32)[:, None] * np.linspace(0.9, 1, width, dtype=np.float32)
        return super().__call__(images) * slope


def regions_of(steps):
    return list(steps.folder.regions(probability=True))


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


@pytest.mark.parametrize(("whole_process", "cpu"), [(False, 1.25), (True, 3.5)])
def test_a_stage_is_noted_with_its_times(monkeypatch, whole_process, cpu):
    ticks = {"time": [101.23456, 103.98765], "thread_time": [7.0, 8.25], "process_time": [10.0, 13.5]}
    for name, values in ticks.items():
        monkeypatch.setattr(f"time.{name}", iter(values).__next__)
    clock = Clock(100.0)
    with clock.time("read", "1-2", whole_process=whole_process):
        pass
    monkeypatch.undo()
    assert clock.events == [("read", "1-2", 1.2346, 3.9877, cpu)]


def test_stages_are_summed_in_the_order_of_the_pipeline_and_shifted_to_another_clock():
    events = [
        Event("infer", "0-0", 1.0, 3.0, 1.5),
        Event("decode", "0-0", 0.5, 1.25, 0.5),
        Event("infer", "0-1", 3.0, 3.25, 0.125),
    ]
    assert list(work(events).items()) == [("decode", 0.75), ("infer", 2.25)]
    assert list(processor_time(events).items()) == [("decode", 0.5), ("infer", 1.625)]
    assert shifted(events, 2.5)[1] == ("decode", "0-0", 3.0, 3.75, 0.5)


def test_every_stage_of_every_region_is_noted_and_every_tile_counted(tmp_path):
    steps = plain_steps(PlainSlide(discs(300, 700, [(50, 50), (200, 600)])), tmp_path, tile=256, overlap=56, group=2)
    steps = Steps(steps.slide, steps.engine, steps.folder, steps.grid, steps.tissue, batch=3)
    assert steps.grid.shape == (1, 2)  # of 2 × 4 tiles
    counts = []
    run_pipeline(steps, counts.append)
    assert counts == [3, 1, 3, 1]
    noted = sorted((stage, region) for stage, region, *_ in steps.clock.events)
    # Each region is written twice: its tiles, then its nuclei; it has two calls of the engine, and is padded before.
    times = {"decode": 1, "tile": 3, "infer": 2, "stitch": 1, "separate": 1, "measure": 1, "write": 2}
    expected = [(stage, region) for stage, count in times.items() for region in ("0-0", "0-1") for _ in range(count)]
    assert noted == sorted(expected)
    assert steps.tiles_path(2, 34) == tmp_path / "tiles" / "002-034.npy"
    assert steps.image_path(2, 34) == tmp_path / "tiles" / "002-034.image.npy"


def test_an_image_smaller_than_a_tile_is_mirrored(tmp_path):
    image = np.random.default_rng(0).integers(0, 200, (70, 50, 3), dtype=np.uint8)
    tiles = []

    class Noted(PlainEngine):
        def __call__(self, images):
            tiles.append(images.copy())
            return super().__call__(images)

    run_pipeline(plain_steps(PlainSlide(image), tmp_path, Noted()))
    # The next multiples of 32.
    np.testing.assert_array_equal(tiles[0][0], np.pad(image, [(0, 26), (0, 14), (0, 0)], mode="reflect"))


def test_separation_gets_the_threshold_and_the_resolution_of_the_model(tmp_path, monkeypatch):
    given = []

    def noted(probability, **options):
        given.append((probability.shape, options))
        return separate(probability, **options)

    monkeypatch.setattr(module, "separate", noted)
    engine = PlainEngine()
    engine.spec = msgspec.structs.replace(engine.spec, threshold=0.75, microns_per_pixel=0.5)
    image = np.full((200, 240, 3), 60, np.uint8)  # a probability of 0.76
    image[:, :120] = 70  # and one of 0.73, which is background
    run_pipeline(plain_steps(PlainSlide(image), tmp_path, engine))
    # The foreground and 16 px around it.
    assert given == [((200, 136), {"threshold": 0.75, "microns_per_pixel": 0.5})]


def test_what_is_left_out_for_separation():
    used = np.zeros(30, bool)
    assert module._span(used, 4) == slice(0, 0)
    used[[10, 15]] = True
    assert module._span(used, 4) == slice(6, 20)
    assert module._span(used, 12) == slice(0, 28)
    assert module._span(used, 20) == slice(0, 30)


def test_shrinking_by_hand():
    image = np.zeros((9, 20, 3), np.uint8)
    image[:8, :8] = np.arange(8)[:, None, None] * 10  # a mean of 35
    image[:8, 16:] = 40  # repeated to the end of its block
    image[8, :8] = 90  # a row that is repeated
    assert shrink(image)[..., 0].tolist() == [[35, 0, 40], [90, 0, 0]]
    assert shrink(image).shape == (2, 3, 3)
    assert shrink(np.full((8, 16, 3), 5, np.uint8)).shape == (1, 2, 3)


def test_probabilities_are_kept_in_255_steps_and_glass_is_white(tmp_path):
    image = np.full((700, 256, 3), 240, np.uint8)
    image[40:60, 40:60] = (100, 40, 120)
    steps = plain_steps(PlainSlide(image), tmp_path, tile=256, overlap=56, group=1)
    run_pipeline(steps)
    first = regions_of(steps)[0]
    assert first.probability.dtype == np.uint8
    # Red 100 is 155 of 255, red 240 is 15; what no tile shows has 0.
    assert set(np.unique(first.probability)) <= {0, 15, 155}
    assert first.probability[50, 50] == 155
    # Tissue and 96 px around it end at row 156: tiles 0 (to 256) and 1 (148 to 404) are computed. The core of region 2
    # is rows 350 to 498; it sees the image of tile 1 only.
    region = {region.core[0]: region for region in regions_of(steps)}[350]
    assert region.core == (350, 0, 148, 256)
    assert (region.picture[:6] == 240).all()
    assert (region.picture[7:] == 255).all()


def test_damaged_tiles_name_themselves(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6).reshape(2, 3))
    assert isinstance(module._mapped(path), np.memmap)
    path.write_bytes(path.read_bytes()[:-9])
    for damaged in (path, tmp_path / "none.npy"):
        with pytest.raises(BadInput, match=rf"{damaged.name} is damaged \(.+\); remove it and run the same command"):
            module._mapped(damaged)
