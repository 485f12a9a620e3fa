"""A build writes all of its files or none."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_bundle import put_graph, tiny_graph

from msal_deploy.build_trt import build_trt, save
from msal_deploy.bundle import Bundle
from msal_deploy.errors import GateFailed, MissingRequirement
from msal_deploy.files import output_lock
from msal_deploy.trt.plan_metadata import metadata_path, read_metadata


def test_plan_and_metadata_are_in_the_manifest(tiny, install, make_request, files):
    install("rtx")
    before = files(tiny)
    file = build_trt(tiny, make_request("rtx", "fp16")).file
    assert files(tiny) - before == {file.name, metadata_path(file).name}
    opened = Bundle(tiny.path)
    assert opened.file(file.name) == file
    assert opened.manifest.artifacts[file.name].made_from == ("model.fp16.onnx",)
    assert opened.manifest.artifacts[metadata_path(file).name].made_from == (file.name,)
    assert opened.manifest.artifacts["model.fp32.onnx"] == tiny.manifest.artifacts["model.fp32.onnx"]


def test_changes_to_the_manifest_during_a_build_are_kept(tiny, install, make_request):
    install("rtx", on_step=lambda: put_graph(tiny, "model.other.onnx", tiny_graph("fp32")))
    build_trt(tiny, make_request("rtx", "fp16"))
    assert "model.other.onnx" in Bundle(tiny.path).manifest.artifacts


def test_rejected_plan_does_not_replace_the_accepted_one(tiny, install, make_request):
    trt = install("rtx")
    request = make_request("rtx", "fp16")
    good = build_trt(tiny, request)
    manifest = Bundle(tiny.path).manifest
    trt.world.assign = lambda node, precision: "fp32"
    with pytest.raises(GateFailed, match=r"100\.0% in fp32.*model\.fp16\.sm86\.tensorrt-rtx\.plan\.rejected"):
        build_trt(tiny, request)
    assert read_metadata(good.file) == good.plan
    assert Bundle(tiny.path).manifest == manifest
    assert read_metadata(save.rejected(good.file)).actual.shares["fp32"].of_flops == 1


def test_accepted_plan_removes_the_rejected_one(tiny, install, make_request, files):
    trt = install("rtx", assign=lambda node, precision: "fp32")
    with pytest.raises(GateFailed):
        build_trt(tiny, make_request("rtx", "fp16"))
    trt.world.assign = lambda node, precision: precision
    build_trt(tiny, make_request("rtx", "fp16"))
    assert not [name for name in files(tiny) if "rejected" in name]


def test_second_build_waits_for_the_first(tiny, install, make_request, capsys):
    install("rtx")
    done = threading.Event()
    thread = threading.Thread(target=lambda: (build_trt(tiny, make_request("rtx", "fp16"), progress=True), done.set()))
    with output_lock(tiny.path):
        thread.start()
        assert not done.wait(0.5)
    thread.join()
    assert done.is_set()
    assert "Waiting for another command that writes to" in " ".join(capsys.readouterr().err.split())


def test_too_little_disk_space_is_reported_before_the_build(tiny, install, make_request, monkeypatch, files):
    install("rtx", on_step=lambda: pytest.fail("it built"))
    before = files(tiny)
    usage = shutil.disk_usage(tiny.path)._replace(free=1000)
    monkeypatch.setattr(save.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MissingRequirement, match="free some space"):
        build_trt(tiny, make_request("rtx", "fp16"))
    assert files(tiny) == before


def test_too_little_memory_is_reported_before_the_build(tiny, install, make_request, monkeypatch):
    install("rtx", on_step=lambda: pytest.fail("it built"))
    monkeypatch.setattr(save, "_free_memory", lambda: 100 << 20)
    with pytest.raises(MissingRequirement, match=r"needs about .* of memory.*; close other programs"):
        build_trt(tiny, make_request("rtx", "fp16"))


def test_full_disk_during_the_build_leaves_no_files(tiny_source, small_disk, install, make_request, files):
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
        build_trt(bundle, make_request("rtx", "fp16"))
    assert steps
    (small_disk / "filler").unlink()
    assert files(bundle) == before
    assert (folder / "manifest.json").read_bytes() == manifest
