"""What a build leaves on the disk: all of it or nothing."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_bundle import put_graph, tiny_graph

from msal_deploy.build_trt import build_trt, save
from msal_deploy.bundle import Bundle
from msal_deploy.errors import GateFailed, MissingRequirement
from msal_deploy.trt.plan_metadata import read_metadata, sidecar


def test_plan_sidecar_and_chain(tiny, install, an_order, files):
    install("rtx")
    before = files(tiny)
    file = build_trt(tiny, an_order("rtx", "fp16")).file
    assert files(tiny) - before == {file.name, sidecar(file).name}
    opened = Bundle(tiny.path)
    assert opened.file(file.name) == file
    assert opened.manifest.artifacts[file.name].made_from == ("model.fp16.onnx",)
    assert opened.manifest.artifacts[sidecar(file).name].made_from == (file.name,)
    assert opened.manifest.artifacts["model.fp32.onnx"] == tiny.manifest.artifacts["model.fp32.onnx"]


def test_what_others_added_to_the_manifest_meanwhile_stays(tiny, install, an_order):
    install("rtx", on_step=lambda: put_graph(tiny, "model.other.onnx", tiny_graph("fp32")))
    build_trt(tiny, an_order("rtx", "fp16"))
    assert "model.other.onnx" in Bundle(tiny.path).manifest.artifacts


def test_a_rejected_plan_leaves_the_good_one_and_the_manifest(tiny, install, an_order):
    trt = install("rtx")
    request = an_order("rtx", "fp16")
    good = build_trt(tiny, request)
    manifest = Bundle(tiny.path).manifest
    trt.world.realise = lambda node, precision: "fp32"
    with pytest.raises(GateFailed, match=r"100% in fp32.*model\.fp16\.sm86\.tensorrt-rtx\.plan\.rejected"):
        build_trt(tiny, request)
    assert read_metadata(good.file) == good.plan
    assert Bundle(tiny.path).manifest == manifest
    assert read_metadata(save.rejected(good.file)).realised.shares["fp32"].of_flops == 1


def test_a_good_plan_removes_the_rejected_one(tiny, install, an_order, files):
    trt = install("rtx", realise=lambda node, precision: "fp32")
    with pytest.raises(GateFailed):
        build_trt(tiny, an_order("rtx", "fp16"))
    trt.world.realise = lambda node, precision: precision
    build_trt(tiny, an_order("rtx", "fp16"))
    assert not [name for name in files(tiny) if "rejected" in name]


def test_the_second_builder_waits_for_the_first(tiny, install, an_order, capsys):
    install("rtx")
    lock = FileLock(tiny.path / save.LOCK)
    lock.acquire()
    done = threading.Event()
    thread = threading.Thread(target=lambda: (build_trt(tiny, an_order("rtx", "fp16"), progress=True), done.set()))
    thread.start()
    assert not done.wait(0.5)
    lock.release()
    assert done.wait(30)
    thread.join()
    assert "Another build-trt works on" in capsys.readouterr().err


def test_too_little_disk_is_told_before_the_build(tiny, install, an_order, monkeypatch, files):
    install("rtx", on_step=lambda: pytest.fail("it built"))
    before = files(tiny)
    usage = shutil.disk_usage(tiny.path)._replace(free=1000)
    monkeypatch.setattr(save.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MissingRequirement, match="free some space"):
        build_trt(tiny, an_order("rtx", "fp16"))
    assert files(tiny) == before


def test_too_little_memory_is_told_before_the_build(tiny, install, an_order, monkeypatch):
    install("rtx", on_step=lambda: pytest.fail("it built"))
    monkeypatch.setattr(save, "_free_memory", lambda: 100 << 20)
    with pytest.raises(MissingRequirement, match="memory"):
        build_trt(tiny, an_order("rtx", "fp16"))


def test_a_disk_that_fills_up_during_the_build_leaves_nothing(tiny_source, small_disk, install, an_order, files):
    folder = Path(shutil.copytree(tiny_source, small_disk / "bundle"))

    def fill() -> None:
        with (small_disk / "filler").open("ab", buffering=0) as stream, suppress(OSError):
            while stream.write(b"x" * 4096):
                steps.append(1)

    steps: list[int] = []
    bundle = Bundle(folder)
    before, manifest = files(bundle), (folder / "manifest.json").read_bytes()
    install("rtx", on_step=fill)
    with pytest.raises(MissingRequirement, match="is full; free some space"):
        build_trt(bundle, an_order("rtx", "fp16"))
    assert steps
    (small_disk / "filler").unlink()
    assert files(bundle) == before
    assert (folder / "manifest.json").read_bytes() == manifest
