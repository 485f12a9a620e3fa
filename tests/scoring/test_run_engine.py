"""How patches are given to an engine, and what becomes of its answers."""

import inspect

import numpy as np
import pytest

from msal_deploy.data import Patch
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import Engine, segment
from msal_deploy.scoring import inference, run_engine
from msal_deploy.spec import ModelSpec


class Red(Engine):
    """The probability is the red channel. Remembers the shapes it was given."""

    runtime = "red"

    def __init__(self):
        super().__init__(type("Bundle", (), {"spec": ModelSpec(), "path": "bundle"})(), "fp32")
        self.seen = []

    def _open(self):
        pass

    def _infer(self, images):
        self.seen.append(images.shape[:3])
        return images[..., 0][:, None].astype(np.float32) / 255

    def _close(self):
        pass


def patch(height=32, width=32, mask=None, level=51):
    image = np.full((height, width, 3), level, np.uint8)
    return Patch("a", "whole", image, np.zeros(mask or (height, width), bool))


def test_one_patch_a_call_and_no_progress_unless_asked(capsys):
    with Red() as engine:
        outputs = run_engine(engine, [patch(level=level) for level in (0, 51, 255)])
    assert engine.seen == [(1, 32, 32)] * 3
    assert [float(one.max()) for one in outputs.maps] == pytest.approx([0, 0.2, 1])
    assert outputs.findings.pixels == 3 * 32 * 32
    assert capsys.readouterr() == ("", "")


def test_patches_of_one_image_size_share_calls_even_if_their_masks_differ():
    patches = [patch(mask=(20, 32)), patch(mask=(32, 10)), patch(64), patch()]
    with Red() as engine:
        maps = run_engine(engine, patches, batch=4).maps
    assert engine.seen == [(2, 32, 32), (1, 64, 32), (1, 32, 32)]
    assert [one.shape for one in maps] == [(20, 32), (32, 10), (64, 32), (32, 32)]


def test_tiles_share_64_px_and_small_ones_half(monkeypatch):
    asked = []

    def remember(engine, image, *, tile, overlap, batch):
        asked.append((tile, overlap, batch))
        return segment(engine, image, tile=tile, overlap=overlap, batch=batch)

    monkeypatch.setattr(inference, "segment", remember)
    with Red() as engine:
        for tile in (512, 128, 96):
            (one,) = run_engine(engine, [patch(40, 50)], batch=3, tile=tile).maps
            assert one.shape == (40, 50) and np.all(one == np.float32(0.2))
    assert asked == [(512, 64, 3), (128, 64, 3), (96, 48, 3)]


def test_an_answer_of_another_type_is_refused(monkeypatch):
    monkeypatch.setattr(Red, "_infer", lambda self, images: np.zeros((len(images), 1, 32, 32)))
    with Red() as engine, pytest.raises(BadInput, match=r"Expected float32\[1, 1, 32, 32\] from red:fp32, got float64"):
        run_engine(engine, [patch()])


def test_outputs_cannot_be_changed_and_equal_themselves_only():
    with Red() as engine:
        one, other = (run_engine(engine, [patch()]) for _ in range(2))
    with pytest.raises(AttributeError):
        one.maps = ()
    assert one == one and one != other


def test_the_defaults():
    parameters = inspect.signature(run_engine).parameters
    assert {name: parameters[name].default for name in ("batch", "tile", "progress")} == {
        "batch": 1, "tile": None, "progress": False,
    }  # fmt: skip
