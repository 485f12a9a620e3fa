"""benchmarks/generalisation/: scores by hand, groups, stain shifts, the comparison, and the choice of a recipe."""

import json
import re
import shlex
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from rich.console import Console
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.metrics import Confusion
from msal_deploy.recipe import Recipe
from msal_deploy.runtimes import CATALOGUE
from msal_deploy.train import TrainReport
from msal_deploy.train.augment import STAINS
from msal_deploy.train.state import Epoch
from msal_deploy.train.validation import ViewScore

FOLDER = Path(__file__).parents[1] / "benchmarks" / "generalisation"
sys.path.insert(0, str(FOLDER))

import measure_sources  # noqa: E402
from comparison import compare_results  # noqa: E402
from grids import as_markdown, percent  # noqa: E402
from measure_sources import Scorer, Source, evenly, groups_of, make_shifts, parse_which, restain  # noqa: E402
from recipe_choice import RULE, choose, read_folds  # noqa: E402
from source_plot import save_plot, spread  # noqa: E402
from source_results import ImageScore, Point, Results, SourceResult, curve_points, summarise  # noqa: E402
from sources import DENSITIES, app, fastest_fp32, parse_densities  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")
GLASS = 255


class DarkIsNucleus:
    """An engine whose nuclei are the pixels with red below 100."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return (images[..., 0] < 100).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Bundle:
    """A bundle whose engine predicts nuclei everywhere, because its last layer is ReLU, then sigmoid."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def make_image(make_annotated_image):
    """Write an image of a grey value `dark` in the first `nuclei` columns and glass elsewhere."""

    def make(stem: str, dark: int, nuclei: int = 16, truth: int = 16, width: int = 64):
        image, mask = np.full((64, width, 3), GLASS, np.uint8), np.zeros((64, width), bool)
        image[:, :nuclei], mask[:, :truth] = dark, True
        return make_annotated_image(stem, image, mask)

    return make


def write_set(folder: Path, **columns: int) -> Path:
    """Write a data set with images of 64 px, each with nuclei in its first columns."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for stem, nuclei in columns.items():
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :nuclei] = 255
        pixels = np.random.default_rng([*stem.encode()]).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{stem}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{stem}.png")
    return folder


def call(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def message(result) -> str:
    return " ".join(result.stderr.split())


def test_summary_has_hand_computed_means_and_pooled_scores():
    counts = {"a": [Confusion(30, 10, 10), Confusion(10, 10, 30)], "b": [Confusion(8, 2, 2), Confusion(0, 0, 0)]}
    result = summarise("lab", "all", "", (None, None), counts)
    # Dice of the patches: 60/80, 20/60, 16/20; IoU: 30/50, 10/50, 8/12. The last patch has no nuclei.
    assert result.dice_mean == pytest.approx((0.75 + 1 / 3 + 0.8) / 3)
    assert result.iou_mean == pytest.approx((0.6 + 0.2 + 2 / 3) / 3)
    assert result.dice_pooled == pytest.approx(96 / (96 + 22 + 42))
    assert result.iou_pooled == pytest.approx(48 / (48 + 22 + 42))
    assert (result.patches, result.patches_without_nuclei) == (4, 1)
    assert [(image.stem, image.patches) for image in result.images] == [("a", 2), ("b", 2)]
    assert [image.dice for image in result.images] == [pytest.approx(80 / 140), pytest.approx(0.8)]


def test_images_without_nuclei_are_named_and_cannot_be_the_worst():
    counts = {"blank": [Confusion(0, 0, 0)], "false": [Confusion(0, 9, 0)], "missed": [Confusion(0, 0, 9)]}
    result = summarise("lab", "all", "", (None,) * 3, counts)
    assert result.without_nuclei == ("blank", "false")
    assert result.ranked == ((0.0, "missed"),)
    assert (result.dice_mean, result.dice_pooled, result.patches_without_nuclei) == (0.0, 0.0, 2)
    assert result.to_json()["images_without_nuclei"] == ["blank", "false"]
    assert make_results(result).to_json()["rules"]["without nuclei"].startswith("patches without nuclei are left out")


def test_source_without_any_nuclei_is_an_error():
    with pytest.raises(BadInput, match="lab has no nuclei; leave it out"):
        summarise("lab", "all", "", (None,), {"blank": [Confusion(0, 1, 0)]})


def test_worst_five_images_and_images_under_0_4_are_listed():
    images = tuple(ImageScore(f"i{k}", 1, k / 10) for k in (9, 1, 8, 2, 7, 3, 4))
    result = make_source(images=images)
    worst = result.to_json()["worst_images"]
    assert [(one["stem"], one["dice"]) for one in worst] == [
        ("i1", 0.1), ("i2", 0.2), ("i3", 0.3), ("i4", 0.4), ("i7", 0.7),
    ]  # fmt: skip
    assert result.to_json()["images_under_0.4"] == 3


def test_groups_have_means_over_images_with_the_worst_group_first():
    scores = [("l1", 0.9, "liver"), ("l2", 0.5, "liver"), ("s1", 0.6, "spleen"), ("x", None, "spleen")]
    result = make_source(images=tuple(ImageScore(stem, 1, value, group) for stem, value, group in scores))
    assert [msgspec.structs.astuple(group) for group in result.groups()] == [
        ("spleen", 1, 0.6, "s1", 0.6), ("liver", 2, pytest.approx(0.7), "l2", 0.5),
    ]  # fmt: skip


def test_groups_follow_the_pattern(make_image):
    organs = Source("nuinsseg", "all", tuple(make_image(stem, 0) for stem in ("n_human_liver_03", "n_mouse_ear", "x")))
    other = Source("consep", "all", (make_image("consep_1", 0),))
    groups = groups_of([organs, other], r"n_(?:human|mouse)_(\w+?)(?:_\d+)?$")
    assert groups == {"nuinsseg": ("liver", "ear", "other"), "consep": (None,)}
    assert groups_of([other], None) == {"consep": (None,)}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("(", "not a regular expression"), ("n_", "has no group"), ("(liver)", "matches no image; stems look like a")],
)
def test_bad_pattern_is_an_error(make_image, pattern, text):
    with pytest.raises(BadInput, match=text):
        groups_of([Source("lab", "all", (make_image("a", 0),))], pattern)


def test_image_has_the_patches_of_the_validation(make_image):
    # 96×64 px: two patches of 64 px that overlap by 32; the nuclei are in the left one.
    wide = make_image("wide", 0, nuclei=24, truth=16, width=96)
    result = Scorer(DarkIsNucleus(), 0.5, (1.0,), False, 0).score(Source("lab", "all", (wide,)), (None,))
    assert (result.patches, result.patches_without_nuclei) == (2, 1)
    assert result.dice_mean == result.dice_pooled == pytest.approx(2 * 16 / (16 + 24))
    assert result.curves == {} and result.curve_images == ()


def test_curve_has_hand_computed_scores(make_image):
    # Densities of ln 4 and ln 16 are the intensities 63 and 15; half of them 127 and 63, and twice of them 15 and 0.
    images = (make_image("faint", 63), make_image("strong", 15), make_image("blank", 15, nuclei=0, truth=0))
    scorer = Scorer(DarkIsNucleus(), 0.5, (0.5, 1.0, 2.0), False, 24)
    result = scorer.score(Source("lab", "all", images), (None,) * 3)
    assert (result.dice_mean, result.without_nuclei) == (1.0, ("blank",))
    assert result.curve_images == ("faint", "strong")
    assert result.curves == {"density": (Point(0.5, 0.5, 0.5), Point(1.0, 1.0, 1.0), Point(2.0, 1.0, 1.0))}


def test_curve_is_relative_to_the_unshifted_dice():
    assert curve_points({1.4: 0.6, 0.7: 0.76}, 0.8) == (Point(0.7, 0.76, 0.95), Point(1.4, 0.6, pytest.approx(0.75)))
    assert curve_points({0.7: 0.0}, 0.0) == (Point(0.7, 0.0, None),)


def test_stain_shifts_scale_one_stain_only():
    shifts = {(shift.curve, shift.factor): shift.matrix for shift in make_shifts((0.5, 1.0), stains=True)}
    assert list(shifts) == [("density", 0.5), ("haematoxylin", 0.5), ("eosin", 0.5)]
    torch.testing.assert_close(shifts["density", 0.5], 0.5 * torch.eye(3), rtol=0, atol=0)
    haematoxylin, eosin, residual = STAINS
    for curve, changed in (("haematoxylin", haematoxylin), ("eosin", eosin)):
        for stain in (haematoxylin, eosin, residual):
            expected = 0.5 * stain if stain is changed else stain
            torch.testing.assert_close(shifts[curve, 0.5] @ stain, expected, rtol=0, atol=1e-5)
    assert [shift.curve for shift in make_shifts((0.5, 1.0), stains=False)] == ["density"]


def test_restain_keeps_the_layout_of_images():
    images = np.full((2, 32, 64, 3), 63, np.uint8)
    images[1] = GLASS
    changed = restain(images, 0.5 * torch.eye(3))
    assert changed.shape == images.shape and changed.dtype == np.uint8
    assert (changed[0] == 127).all() and (changed[1] == GLASS).all()


@pytest.mark.parametrize(
    ("count", "expected"), [(2, ("a", "c")), (3, ("a", "b", "d")), (5, tuple("abcde")), (9, tuple("abcde"))]
)
def test_evenly_spreads_over_sorted_stems(count, expected):
    assert evenly("edcba", count) == expected


def test_lowest_relative_dice_is_between_0_7_and_1_4():
    points = tuple(Point(factor, 0.5, value) for factor, value in ((0.6, 0.1), (0.7, 0.97), (1.4, 0.96), (1.6, 0.2)))
    source = make_source(curves={"density": points, "eosin": points[:1]})
    assert (source.lowest(), source.lowest("eosin"), source.lowest("haematoxylin")) == (0.96, None, None)
    assert source.to_json()["holds"] == {"density": True, "eosin": None}


def test_require_names_the_sources_that_fall_too_far():
    results = make_results(
        make_source("a", curves={"density": (Point(0.7, 0.5, 0.9499),)}),
        make_source("b", curves={"density": (Point(1.4, 0.5, 0.95),), "eosin": (Point(1.4, 0.1, 0.2),)}),
    )
    results.require(0.9)
    with pytest.raises(GateFailed, match=r"below 95% of the unshifted Dice between ×0\.7 and ×1\.4: a 94%; "):
        results.require(0.95)


def test_which_images_can_be_chosen_for_each_set():
    assert parse_which((), ["a", "b"]) == {"a": "held-out", "b": "held-out"}
    assert parse_which(("a=held-out", "all"), ["a", "b"]) == {"a": "held-out", "b": "all"}


@pytest.mark.parametrize(
    ("which", "names", "text"),
    [
        (("al",), ["a"], "'al' is not a choice of images; did you mean 'all'"),
        (("monusag=all",), ["monuseg"], "'monusag' is not one of the data sets; did you mean 'monuseg'"),
        ((), ["a", "a"], "Two data sets are named 'a'"),
    ],
)
def test_bad_choice_of_images_is_an_error(which, names, text):
    with pytest.raises(BadInput, match=text):
        parse_which(which, names)


def test_densities_are_sorted_and_each_once():
    assert parse_densities("1.4, 0.7,1,0.7") == (0.7, 1.0, 1.4)


@pytest.mark.parametrize(
    ("text", "error"), [("0.7;1", "not a list of numbers"), ("0,1", "from 0.1 to 8"), ("nan", "8")]
)
def test_bad_densities_are_an_error(text, error):
    with pytest.raises(BadInput, match=error):
        parse_densities(text)


def test_default_engine_is_the_fastest_fp32_engine(tiny, monkeypatch):
    assert fastest_fp32(tiny) == "openvino:fp32"
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(CATALOGUE, name, msgspec.structs.replace(CATALOGUE[name], module="no_such_module"))
    with pytest.raises(MissingRequirement, match="pip install openvino"):
        fastest_fp32(tiny)


def test_score_writes_json_and_plot(tiny, tmp_path):
    lab = write_set(tmp_path / "lab", lab_liver_1=16, lab_liver_2=32, lab_skin_1=48, lab_skin_2=0)
    home = write_set(tmp_path / "home" / "train", h1=16, h2=32, h3=8)
    written, plot = tmp_path / "scores.json", tmp_path / "scores.png"
    result = call(
        "score", tiny.path, "--data", lab, "--data", f"home={home}", "--images", "lab=all", "--group-by", "lab_(.+)_",
        "--engine", "onnxruntime:fp32", "--densities", "0.7,1", "--curve-images", "2", "--stains", "--require", "0.95",
        "--json", written, "--plot", plot,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    results = json.loads(written.read_text())
    first, second = results["sources"]
    # Everything is predicted as nucleus, so the Dice of an image is 2·t / (t + 64) for t columns.
    assert first["dice_mean"] == pytest.approx((32 / 80 + 64 / 96 + 96 / 112) / 3)
    assert first["dice_pooled"] == pytest.approx(2 * 96 / (96 + 256))
    assert first["iou_mean"] == pytest.approx((16 + 32 + 48) / 64 / 3)
    assert first["worst_images"][0] == {"stem": "lab_liver_1", "dice": pytest.approx(0.4)}
    assert first["images_without_nuclei"] == ["lab_skin_2"]
    assert [(group["group"], group["images"]) for group in first["groups"]] == [("liver", 2), ("skin", 1)]
    assert first["curve_images"] == ["lab_liver_1", "lab_liver_2"]
    assert set(first["curves"]) == {"density", "haematoxylin", "eosin"}
    assert [point["relative"] for point in first["curves"]["density"]] == [1.0, 1.0]
    assert (second["name"], second["which"], len(second["images"])) == ("home", "held-out", 1)
    assert results["weights"]["recipe"] == "tiny" and results["densities"] == [0.7, 1.0]
    assert str(tmp_path) not in written.read_text()
    assert Image.open(plot).width > 1000
    assert "left out, without nuclei: 1: lab_skin_2" in result.stdout
    assert "lab" in result.stderr  # the progress bar
    assert msgspec.to_builtins(Results.load(written)).keys() <= results.keys()


def test_require_exits_with_1_after_writing(tiny, tmp_path, monkeypatch):
    lab = write_set(tmp_path / "lab", a=16, b=32)
    mean_dice = iter((0.5, 0.45))  # unshifted, shifted
    monkeypatch.setattr(measure_sources, "_mean_dice", lambda counts: next(mean_dice))
    words = ("score", tiny.path, "--data", lab, "--images", "all", "--densities", "0.7", "--require", "0.95")
    result = call(*words, "--engine", "onnxruntime:fp32", "--json", tmp_path / "scores.json")
    assert result.exit_code == 1
    assert "between ×0.7 and ×1.4: lab 90%" in message(result)
    assert (tmp_path / "scores.json").is_file()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--require", "0.95", "--densities", "0.6,1,1.6"), "needs a curve with a density from 0.7 to 1.4"),
        (("--require", "0.95", "--curve-images", "0"), "needs a curve"),
        (("--plot", "a.gif"), "not a supported image file"),
        (("--images", "test"), "lab has no folder named test; use --images lab=all"),
        (("--engine", "openvin:fp32"), "did you mean 'openvino'"),
    ],
)
def test_score_rejects_bad_options(tiny, tmp_path, words, text):
    result = call("score", tiny.path, "--data", write_set(tmp_path / "lab", a=16, b=32), *words)
    assert result.exit_code == 2
    assert text in message(result)


def test_score_rejects_the_same_image_in_two_sets(tiny, tmp_path):
    one, two = write_set(tmp_path / "one", a=16), write_set(tmp_path / "two", a=16)
    result = call("score", tiny.path, "--data", one, "--data", two, "--images", "all")
    assert result.exit_code == 2
    assert "one/a and two/a have the same pixels" in message(result)


# --- compare ---------------------------------------------------------------------------------------------------------


def make_source(name: str = "lab", dice: float = 0.8, **changes) -> SourceResult:
    fields = {
        "which": "all", "label_convention": "", "patches": 2, "patches_without_nuclei": 0, "dice_mean": dice,
        "iou_mean": dice - 0.1, "dice_pooled": dice + 0.01, "iou_pooled": dice, "images": (
            ImageScore("a", 1, dice, "liver"), ImageScore("b", 1, dice - 0.5, "skin")
        ),
    }  # fmt: skip
    return SourceResult(name=name, **(fields | changes))


def make_results(*sources: SourceResult, recipe: str = "fast") -> Results:
    return Results(
        weights={"recipe": recipe}, engine="openvino:fp32", threshold=0.5, densities=(0.7, 1.0), sources=sources,
        environment={},
    )  # fmt: skip


def test_compare_shows_both_weights_with_the_worst_source_first(tmp_path):
    points = {"density": (Point(0.7, 0.5, 0.9), Point(1.0, 0.8, 1.0))}
    old = make_results(make_source("home", 0.82), make_source("lab", 0.708, curves=points), make_source("gone"))
    new = make_results(make_source("home", 0.83), make_source("lab", 0.806, curves=points), recipe="robust")
    grids, notes = compare_results(old, new, ("shipped", "robust"))
    assert grids[0].lines == (
        ("lab", "2", "0.708 → 0.806", "0.608 → 0.706", "0.718 → 0.816", "1 → 1"),
        ("home", "2", "0.820 → 0.830", "0.720 → 0.730", "0.830 → 0.840", "1 → 1"),
    )
    assert grids[1].lines[:2] == (("lab", "shipped", "0.208", "b"), ("lab", "robust", "0.306", "b"))
    assert grids[2].columns == ("source", "weights", "×0.7", "×1", "lowest")
    assert grids[2].lines[:2] == (("lab", "shipped", "90%", "100%", "90%"), ("lab", "robust", "90%", "100%", "90%"))
    assert grids[3].lines[0] == ("skin", "1", "0.208 → 0.306", "0.208 → 0.306")
    assert notes == [
        "shipped: recipe fast, scored by openvino:fp32.",
        "robust: recipe robust, scored by openvino:fp32.",
        "Only scored with shipped: gone.",
    ]
    for name, results in (("shipped", old), ("robust", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(results.to_json()))
    markdown = tmp_path / "compare.md"
    result = call("compare", tmp_path / "shipped.json", tmp_path / "robust.json", "--markdown", markdown)
    assert result.exit_code == 0, result.output
    assert markdown.read_text(encoding="utf-8") == as_markdown(grids, notes)
    assert "| lab | 2 | 0.708 → 0.806 |" in markdown.read_text(encoding="utf-8")


def test_compare_rejects_results_of_other_images():
    old, new = make_results(make_source()), make_results(make_source(images=(ImageScore("c", 1, 0.5),)))
    with pytest.raises(BadInput, match="scored other images of lab; score both bundles with the same --images"):
        compare_results(old, new, ("old", "new"))
    curves = {"density": (Point(0.7, 0.5, 0.9),)}
    old, new = (make_results(make_source(curves=curves, curve_images=stems)) for stems in (("a",), ("a", "b")))
    with pytest.raises(BadInput, match=r"curves of old and new show other images of lab; .* same --curve-images"):
        compare_results(old, new, ("old", "new"))
    with pytest.raises(BadInput, match="no source in common"):
        compare_results(old, make_results(make_source("home")), ("old", "new"))


def test_tables_of_the_default_densities_fit_a_terminal():
    factors = parse_densities(DENSITIES)
    image = ImageScore("nuinsseg_human_umbilical_cord_01", 1, 0.8, "human_umbilical_cord")
    curves = {curve: curve_points(dict.fromkeys(factors, 0.8), 0.8) for curve in ("density", "haematoxylin")}
    results = make_results(make_source("nuinsseg", curves=curves, images=(image,)))
    grids = [*results.grids(), *compare_results(results, results, ("shipped", "robust"))[0]]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*(grid.shown() for grid in grids), sep="\n")
    lines = {" ".join(line.split()) for line in capture.get().splitlines()}
    for grid in grids:
        assert {" ".join(" ".join(line).split()) for line in grid.lines} <= lines


@pytest.mark.parametrize(("text", "error"), [(None, "does not exist"), ("{}", "not the JSON of sources.py score")])
def test_compare_rejects_bad_files(tmp_path, text, error):
    path = tmp_path / "a.json"
    if text:
        path.write_text(text)
    result = call("compare", path, path)
    assert result.exit_code == 2
    assert error in message(result)


def test_percent_is_rounded_down():
    assert [percent(value) for value in (0.9499, 0.95, 1.0, 0.29, None)] == ["94%", "95%", "100%", "29%", "–"]


# --- recipes ---------------------------------------------------------------------------------------------------------


def write_fold(folder: Path, name: str, mixture: dict[str, float], **dice: float) -> None:
    """Write the report of a run whose first epoch was better than its last."""
    recipe = Recipe.load("fast")
    train = msgspec.structs.replace(recipe.train, mixture=mixture)
    views = tuple(
        ViewScore(view.replace("_low", " ×0.7"), value, value - 0.1, f"{view}_1", value - 0.2)
        for view, value in dice.items()
    )
    history = (Epoch(1, 1.0, 1e-3, 1.0, 1.0, 1.0, (ViewScore("consep", 1.0, 1.0, "x", 1.0),)),)
    history += (Epoch(2, 1.0, 1e-3, 1.0, min(dice.values()), 0.0, views),)
    report = TrainReport(Path("best"), msgspec.structs.replace(recipe, train=train), history, ())
    (folder / name).mkdir(parents=True)
    (folder / name / "report.json").write_text(json.dumps(report.to_json()))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two recipes with two folds: `mean` has the better mean, `robust` the better worst view."""
    folder = tmp_path / "runs"
    with_consep, with_organs = {"home": 0.5, "consep": 0.5}, {"home": 0.5, "organs": 0.5}
    write_fold(folder, "mean-consep", with_organs, home=0.9, organs=0.9, consep=0.9, consep_low=0.5)
    write_fold(folder, "mean-organs", with_consep, home=0.9, consep=0.9, organs=0.9, organs_low=0.9)
    write_fold(folder, "my-robust-consep", with_organs, home=0.55, organs=0.8, consep=0.7, consep_low=0.62)
    write_fold(folder, "my-robust-organs", with_consep, home=0.8, consep=0.8, organs=0.65, organs_low=0.61)
    return folder


def test_recipe_with_the_best_worst_held_out_view_is_chosen(runs, tmp_path):
    written, markdown = tmp_path / "choice.json", tmp_path / "choice.md"
    result = call("recipes", runs, "--json", written, "--markdown", markdown)
    assert result.exit_code == 0, result.output
    choice = json.loads(written.read_text())
    assert (choice["chosen"], choice["rule"]) == ("my-robust", RULE)
    best, other = choice["recipes"]
    # The lower score of its home source does not count.
    assert best["worst_held_out"] == {"view": "organs: organs ×0.7", "dice": 0.61}
    assert best["worst_image"] == pytest.approx(0.41)
    assert other["worst_held_out"] == {"view": "consep: consep ×0.7", "dice": 0.5}
    assert [view["view"] for view in best["folds"][0]["held_out"]] == ["consep", "consep ×0.7"]
    assert [view["view"] for view in best["folds"][0]["home"]] == ["home", "organs"]
    text = markdown.read_text(encoding="utf-8")
    assert "| my-robust | 2 | 0.610 | organs: organs ×0.7 | 0.410 | 0.550 |" in text
    assert "| consep | consep ×0.7 | 0.620 | 0.520 | 0.420 | consep_low_1 |" in text
    assert "Chosen: my-robust, whose worst held-out view is organs: organs ×0.7 with Dice 0.610." in text


def test_recipe_that_lacks_a_fold_is_not_chosen(runs):
    write_fold(runs, "half-consep", {"home": 1.0}, home=0.9, consep=0.99, consep_low=0.99)
    choice = choose(read_folds(runs))
    assert [one.recipe for one in choice.candidates] == ["my-robust", "mean", "half"]
    assert choice.notes()[-1] == "half cannot be chosen: it has no score of organs: organs, organs: organs ×0.7."


def test_no_recipe_is_chosen_if_each_lacks_a_fold(tmp_path):
    write_fold(tmp_path, "a-consep", {"home": 1.0}, home=0.9, consep=0.9)
    write_fold(tmp_path, "b-organs", {"home": 1.0}, home=0.9, organs=0.9)
    with pytest.raises(BadInput, match=r"a has no score of organs: organs, b has no score of consep: consep; train"):
        choose(read_folds(tmp_path))


def test_without_a_mixture_the_name_of_the_fold_is_the_held_out_source(tmp_path):
    write_fold(tmp_path, "a-consep", {}, home=0.9, consep=0.8)
    (fold,) = read_folds(tmp_path)
    assert ([view.view for view in fold.held_out], [view.view for view in fold.home]) == (["consep"], ["home"])


@pytest.mark.parametrize(
    ("name", "dice", "text"),
    [
        ("consep", {"home": 0.9, "consep": 0.9}, "consep is not named RECIPE-FOLD"),
        ("a-consep", {"home": 0.9}, "no score of a source that was left out"),
    ],
)
def test_unusable_fold_is_an_error(tmp_path, name, dice, text):
    write_fold(tmp_path, name, {"home": 1.0}, **dice)
    result = call("recipes", tmp_path)
    assert result.exit_code == 2
    assert text in message(result)


def test_recipes_rejects_other_files(tmp_path):
    assert "has no RECIPE-FOLD/report.json" in message(call("recipes", tmp_path))
    (tmp_path / "a-b").mkdir()
    (tmp_path / "a-b" / "report.json").write_text("[]")
    assert "is not the JSON of msal-deploy train" in message(call("recipes", tmp_path))
    write_fold(tmp_path, "a-c", {"home": 1.0}, home=0.9, c=0.8)
    report = json.loads((tmp_path / "a-c" / "report.json").read_text())
    report["history"][-1]["views"] = []
    (tmp_path / "a-b" / "report.json").write_text(json.dumps(report))
    assert "has no scores of its last epoch; finish the training" in message(call("recipes", tmp_path))


# --- plot and README -------------------------------------------------------------------------------------------------


def test_labels_are_moved_apart():
    moved = spread({0: 0.50, 1: 0.52, 2: 0.9}, 0.1)
    assert moved == {0: pytest.approx(0.46), 1: pytest.approx(0.56), 2: 0.9}


def test_plot_without_curves_has_the_images(tmp_path):
    save_plot(make_results(make_source(), make_source("one", images=(ImageScore("a", 1, 0.1),))), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_readme_commands_are_valid():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text.replace("\\\n", ""), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python ")]
    assert {line.split()[2] for line in lines} == {"score", "compare", "recipes"}
    for line in lines:
        _, program, name, *words = shlex.split(line)
        assert (FOLDER.parents[1] / program).is_file()
        known = {option for one in typer.main.get_command(app).commands[name].params for option in one.opts}
        assert {word for word in words if word.startswith("-")} <= known
