"""A report as a folder: what is written, that the page is rebuilt byte for byte, and that nothing in it is trusted."""

import json
import re
import shutil

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from report_fixture import BENCH, BISECT, FAILED, MANIFEST, PRECISION, TRAINING, full_report, gallery, validation
from typer.testing import CliRunner

from msal_deploy.cli import app
from msal_deploy.errors import BadInput
from msal_deploy.report import Report, evidence_plots, load_report, plots, rebuild_report, save_report, write_report

runner = CliRunner()


PLOTS = {plots: "delta latency training tradeoff search", evidence_plots: "interval flips calibration"}


@pytest.fixture(scope="module", autouse=True)
def without_plots():
    """Figures take most of the time, and other tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in PLOTS.items():
            for name in names.split():
                patch.setattr(module, f"{name}_plot", lambda *_: "data:")
        yield


@pytest.fixture(scope="module")
def saved(without_plots, tmp_path_factory):
    """A folder with every section, which tests must not change."""
    folder = tmp_path_factory.mktemp("saved") / "report"
    save_report(folder, full_report())
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "report")


def change(folder, edit):
    path = folder / "report.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refusal(folder):
    """Return the refusal, after checking that the old page is kept and nothing else is left."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BadInput) as caught:
        rebuild_report(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert caught.value.remedy and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_page_is_rebuilt_byte_for_byte(folder):
    page = folder / "report.html"
    first = page.read_bytes()
    page.unlink()
    result = runner.invoke(app, ["report", str(folder)])
    assert result.exit_code == 0 and result.output.split() == ["Report:", str(page)]
    assert page.read_bytes() == first


def test_a_folder_and_a_page_of_the_same_report_are_the_same(folder, tmp_path):
    report = full_report()
    parts = {name: getattr(report, name) for name in report.__struct_fields__}
    write_report(tmp_path / "alone.html", **parts)
    assert (tmp_path / "alone.html").read_bytes() == (folder / "report.html").read_bytes()


def test_what_is_saved_is_what_is_loaded(folder):
    loaded, report = load_report(folder), full_report()
    for name in report.__struct_fields__:
        if name != "gallery":
            expected = getattr(report, name)
            assert getattr(loaded, name) == (tuple(expected) if isinstance(expected, list) else expected)
    assert len(loaded.gallery) == len(report.gallery) == 9
    for one, other in zip(loaded.gallery, report.gallery, strict=True):
        for name in one.__struct_fields__:
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_every_input_is_in_the_json(folder):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["format_version"] == 1
    report = content["report"]
    assert set(report) == set(Report.__struct_fields__) - {"gallery"}
    assert (report["manifest"], report["bench"], report["bisect"]) == (MANIFEST, BENCH, BISECT)
    assert (report["precision"], report["training"]) == (PRECISION, TRAINING)
    assert report["validation"] == json.loads(json.dumps(validation()))


def test_engines_share_the_pictures_of_a_patch(folder):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = [name for patch in content["gallery"] for name in patch["layers"].values()]
    assert len(names) == 9 * 4 and len(set(names)) == 4 * len(
        {patch["corner"] + patch["stem"] for patch in content["gallery"]}
    )
    assert {path.name for path in (folder / "pictures").iterdir()} == set(names)


def test_a_new_report_replaces_the_pictures_of_the_old_one_and_nothing_else(folder):
    for name in ("validation.json", "pictures/mine.png", "pictures/notes.txt"):
        (folder / name).write_text("mine")
    values = validation()
    save_report(folder, full_report(gallery=gallery(values)[:1]))
    assert len([path for path in (folder / "pictures").iterdir() if len(path.stem) == 32]) == 4
    assert [(folder / name).read_text() for name in ("validation.json", "pictures/mine.png")] == ["mine", "mine"]
    save_report(folder, Report(title="none", manifest=MANIFEST))
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["mine.png", "notes.txt"]


def test_a_report_that_was_interrupted_leaves_the_old_one_whole(folder, monkeypatch):
    page = (folder / "report.html").read_bytes()
    monkeypatch.setattr("msal_deploy.report.folder.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    new = [replace(patch, image=255 - patch.image) for patch in full_report().gallery]
    with pytest.raises(KeyboardInterrupt):
        save_report(folder, full_report(gallery=tuple(new)))
    assert rebuild_report(folder).read_bytes() == page


# --- nothing in the folder is trusted --------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [None, "validation.json", "bench.json"])
def test_a_folder_without_a_report(tmp_path, older):
    if older:
        (tmp_path / older).write_text("{}")
    result = runner.invoke(app, ["report", str(tmp_path)])
    message = " ".join(result.output.split())
    assert result.exit_code == 2
    assert message.startswith(f"Error: {tmp_path} has no report.json") and "msal-deploy run" in message
    assert ("an earlier version" in message) == bool(older)


def test_no_folder_at_all(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(BadInput, match=r"has no report.json; "):
            rebuild_report(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format_version": "1", "report": {}}', b'{"report": {}}', b"NaN",
     b"[" * 100_000, b'{"format_version": 1, "report": {}}', b'{"format_version": 1, "report": {"title": 3}}',
     b'{"format_version": 1, "report": {"title": "t", "manifest": {}, "gallery": []}, "more": 1}'],
)  # fmt: skip
def test_json_of_another_form(folder, content):
    (folder / "report.json").write_bytes(content)
    assert "report.json is not a report of this version (" in refusal(folder)


def test_another_format_version(folder):
    change(folder, lambda content: content.update(format_version=2))
    assert "expected format version 1, got 2" in refusal(folder)


def paths(value, path=()):
    """Yield the path of every value in JSON; of a list, of the first one."""
    children = (
        value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*path, key)
        yield from paths(child, (*path, key))


def put(content, path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def test_any_value_may_be_of_another_type(tmp_path):
    folder = tmp_path / "small"
    save_report(folder, Report(title="t", manifest=MANIFEST, validation=validation({"openvino:int8": FAILED})))
    original = (folder / "report.json").read_text(encoding="utf-8")
    wrong = (None, True, -1, "text", "<script>alert(1)</script>", [], {}, [[]], {"a": 1})
    refused = 0
    for number, path in enumerate(paths(json.loads(original))):
        content = json.loads(original)
        put(content, path, wrong[number % len(wrong)])
        (folder / "report.json").write_text(json.dumps(content))
        try:
            rebuild_report(folder)
        except BadInput:
            refused += 1
        assert "<script>" not in (folder / "report.html").read_text(encoding="utf-8")
    assert refused > 50


@pytest.mark.parametrize("kind", ["validation", "bench", "precision", "bisect", "manifest"])
def test_a_number_that_is_missing_is_named(folder, kind):
    lost = {
        "validation": lambda report: report["validation"]["engines"]["openvino:int8"].pop("delta_aji"),
        "bench": lambda report: report["bench"]["results"][0].pop("runs"),
        "precision": lambda report: report["precision"]["int8"].pop("share_of_macs"),
        "bisect": lambda report: report["bisect"].pop("evaluations"),
        "manifest": lambda report: report["manifest"].pop("licence"),
    }
    names = {"validation": "delta_aji", "bench": "runs", "precision": "share_of_macs", "bisect": "evaluations"}
    change(folder, lambda content: lost[kind](content["report"]))
    assert names.get(kind, "licence") in refusal(folder)


def first_picture(folder):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return folder / "pictures" / content["gallery"][0]["layers"]["image"]


def test_a_picture_that_is_missing_or_damaged(folder):
    picture = first_picture(folder)
    original = picture.read_bytes()
    for content, told in (
        (b"", "is not a picture"), (b"no picture", "is not a picture"), (original[:200], "is not a picture"),
        (original + b"x", "has changed since it was written"),
    ):  # fmt: skip
        picture.write_bytes(content)
        assert f"{picture} {told}" in refusal(folder)
    Image.new("RGB", (4, 4)).save(picture)
    assert "has changed since it was written" in refusal(folder)
    picture.unlink()
    assert refusal(folder).startswith(f"{picture} is missing; ")


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd", "", "0123.png", f"{'0' * 32}.PNG", "a/b.png", "nul\0.png"]
)
def test_the_name_of_a_picture_cannot_lead_out_of_the_folder(folder, name):
    Image.new("RGB", (160, 160)).save(folder.parent / "secret.png")
    change(folder, lambda content: content["gallery"][0]["layers"].update(image=name))
    assert re.search("is not a picture in|is not one line of printable text", refusal(folder))


def test_a_link_to_a_picture_elsewhere_is_not_followed(folder):
    picture = first_picture(folder)
    outside = folder.parent / "outside.png"
    picture.rename(outside)
    picture.symlink_to(outside)
    assert "is not a picture in" in refusal(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda patch: patch["layers"].pop("truth"),
        lambda patch: patch["layers"].update(more="x"),
        lambda patch: patch["layers"].update(truth=patch["layers"]["image"]),
        lambda patch: patch.update(reason="because"),
        lambda patch: patch.update(flipped_pixels="many"),
        lambda patch: patch.pop("stem"),
        lambda patch: patch.update(more=1),
    ],
)
def test_a_patch_of_another_form(folder, edit):
    change(folder, lambda content: edit(content["gallery"][0]))
    assert refusal(folder)


def test_masks_of_another_size(folder):
    small = full_report().gallery[0]
    small = replace(small, **{name: getattr(small, name)[:80] for name in ("image", "truth", "expected", "predicted")})
    save_report(folder.parent / "small", full_report(gallery=(small,)))
    shutil.copytree(folder.parent / "small" / "pictures", folder / "pictures", dirs_exist_ok=True)
    layers = json.loads((folder.parent / "small" / "report.json").read_text())["gallery"][0]["layers"]
    change(folder, lambda content: content["gallery"][0]["layers"].update(truth=layers["truth"]))
    assert "Expected uint8[80, 160, 3] as the image of" in refusal(folder)


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        save_report(tmp_path / "report", full_report(bisect=BISECT | {"cost": float("nan")}))
    assert not (tmp_path / "report" / "report.html").exists()
