"""Recipes: the built-in ones, files that change a little, and files that are wrong in every way."""

from pathlib import Path

import pytest

from msal_deploy.errors import BadInput
from msal_deploy.recipe import BUILT_IN, AugmentRecipe, NetworkRecipe, Recipe, TrainRecipe


@pytest.fixture
def load(tmp_path: Path):
    def loaded(text: str | bytes) -> Recipe:
        path = tmp_path / "recipe.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Recipe.load(str(path))

    return loaded


def test_default_is_the_papers_protocol():
    recipe = Recipe.load("paper")
    assert recipe == Recipe()
    train = recipe.train
    assert (train.patch, train.epochs, train.batch, train.optimizer) == (512, 300, 2, "adam")
    assert (train.rate, train.decay) == (1e-3, 3e-5)
    assert recipe.network.backbone == "resnet34"
    assert recipe.export.opset == 17  # the last that TensorRT 8.6 reads


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_recipes_are_named_and_survive_json(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert "\n" not in recipe.to_json()


def test_file_names_only_what_it_changes(load):
    recipe = load('name = "mine"\n[train]\nepochs = 7\n[train.augment]\nzoom = [1, 1.5]\n')
    assert recipe == Recipe(name="mine", train=TrainRecipe(epochs=7, augment=AugmentRecipe(zoom=(1.0, 1.5))))


def test_empty_file_is_the_paper(load):
    assert load("") == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('nam = "x"', "unknown field `nam`"),
        ("[train]\nepoch = 3", "unknown field `epoch`"),
        ("[train.augment]\nrotation = 3", "unknown field `rotation`"),
        ("[netwrok]\n", "unknown field `netwrok`"),
        ("name = 3", "Expected `str`"),
        ('[train]\nepochs = "3"', "train.epochs"),
        ("[train]\nepochs = 3.5", "train.epochs"),
        ("[train]\nepochs = true", "train.epochs"),
        ("[train]\nepochs = 0", "train.epochs"),
        ("[train]\nbatch = -1", "train.batch"),
        ("[train]\npatch = 100", "multiple of 32"),
        ("[train]\npatch = 0", "train.patch"),
        ("[train]\nvalidation = 0", "train.validation"),
        ("[train]\nvalidation = 1", "train.validation"),
        ("[train]\nrate = -1e-3", "train.rate"),
        ("[train]\nrate = nan", "train.rate"),
        ("[train]\nema = 1.0", "train.ema"),
        ("[train]\nwarmup = -1", "train.warmup"),
        ('[train]\noptimizer = "sgd"', "sgd"),
        ('[train]\nloss = "dice"', "dice"),
        ('[train]\nprecision = "fp16"', "fp16"),
        ('[network]\nbackbone = "resnet"', "network.backbone"),
        ('[network]\ndense_dilated = "yes"', "network.dense_dilated"),
        ("[train.augment]\nzoom = [1.0]", "length 2"),
        ("[train.augment]\nzoom = 1.2", "augment.zoom"),
        ("[train.augment]\nshift = 1.5", "augment.shift"),
        ("[train.augment]\nstain = nan", "augment.stain"),
        ("[train.augment]\nhed = 1.0", "augment.hed"),
        ("[train.augment]\nhed = -0.1", "augment.hed"),
        ("[train.augment]\ndensity = 0.9", "augment.density"),
        ("[train.augment]\ndensity = inf", "augment.density"),
        ("[train.augment]\noffset = -0.1", "augment.offset"),
        ("[train.augment]\ngamma = 0.9", "augment.gamma"),
        ("[train.augment]\ngrey = 1.1", "augment.grey"),
        ("[train.augment]\nblur = -1", "augment.blur"),
        ("[train.augment]\nsharpen = 0.5", "augment.sharpen"),
        ("[train.augment]\nnoise = 300", "augment.noise"),
        ("[train.augment]\njpeg = 0", "augment.jpeg"),
        ("[train.augment]\njpeg = 101", "augment.jpeg"),
        ("[train.augment]\njpeg = 35.5", "augment.jpeg"),
        ("[train.augment]\nscanner = 2", "augment.scanner"),
        ("[train]\nmixture = { a = 0 }", "train.mixture"),
        ("[train]\nmixture = { a = -1 }", "train.mixture"),
        ("[train]\nmixture = [0.5]", "train.mixture"),
        ("[train]\nmixture = { a = nan }", "train.mixture"),
        ("[train]\nmixture = { a = inf }", "train.mixture"),
        ("[train]\ndensities = []", "at least one factor in densities"),
        ("[train]\ndensities = [0]", "train.densities"),
        ("[export]\nopset = 12", "export.opset"),
        ("[export]\nopset = 99", "export.opset"),
        ("[export]\ntolerance = 0", "export.tolerance"),
        ("[export]\ntolerance = nan", "export.tolerance"),
        ("train = 3", "train"),
        ("[train", "not valid TOML"),
        ("name = 'a'\nname = 'b'", "not valid TOML"),
        (b"name = '\xff'", "not valid TOML"),
    ],
)
def test_load_names_the_file_and_the_wrong_key(load, text, message):
    with pytest.raises(BadInput, match=message) as caught:
        load(text)
    assert "recipe.toml" in str(caught.value)


ZOOM = "any two numbers are taken as a zoom; training then fails in torchvision, or magnifies by something else"


@pytest.mark.parametrize("zoom", ["[1.2, 1.0]", "[0.0, 1.0]", "[-1.0, 1.0]", "[nan, nan]", "[1.0, inf]"])
@pytest.mark.parametrize("crop", ["corners", "random"])
def test_load_rejects_an_impossible_zoom(load, zoom, crop):
    with pytest.raises(BadInput, match="zoom"):
        load(f'[train.augment]\nzoom = {zoom}\ncrop = "{crop}"')


@pytest.mark.parametrize("key", ["rotate", "shear", "stain"])
def test_load_rejects_infinite_augmentation(load, key):
    with pytest.raises(BadInput, match=key):
        load(f"[train.augment]\n{key} = inf")


@pytest.mark.parametrize("text", ["[train]\nrate = inf", "[train]\ndecay = inf", "[export]\ntolerance = inf"])
def test_load_rejects_infinite_numbers(load, text):
    with pytest.raises(BadInput):
        load(text)


@pytest.mark.parametrize("seed", [10**12, -(10**12), 10**20])
def test_load_rejects_a_seed_that_torch_cannot_use(load, seed):
    with pytest.raises(BadInput, match="seed"):
        load(f"[train]\nseed = {seed}")


def test_patch_and_batch_too_small_for_batch_norm_are_refused(load):
    with pytest.raises(BadInput, match="batch"):
        load("[train]\npatch = 32\nbatch = 1")


def test_load_skips_a_byte_order_mark(load):
    assert load(b'\xef\xbb\xbfname = "mine"').name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("papr", "did you mean 'paper'"),
        ("robst", "did you mean 'robust'"),
        ("zebra", "choose from: demo, fast, light, paper, robust"),
        ("", "'' is not a recipe or a .toml file; choose from: demo, fast, light, paper, robust"),
        ("missing.toml", "The recipe file missing.toml does not exist"),
    ],
)
def test_load_suggests_a_name(name, message):
    with pytest.raises(BadInput, match=message):
        Recipe.load(name)


def test_from_json_rejects_other_json():
    for text in ("{", "[]", '{"nam": 1}', '{"train": {"patch": 33}}'):
        with pytest.raises(BadInput, match="The metadata is not a recipe"):
            Recipe.from_json(text)


def test_recipes_are_values():
    assert NetworkRecipe() == NetworkRecipe() and hash(Recipe()) == hash(Recipe())
    with pytest.raises(AttributeError):
        Recipe().name = "other"


def test_recipes_with_a_mixture_are_values():
    one, same, other = (TrainRecipe(mixture=mixture) for mixture in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}))
    assert one == same and hash(one) == hash(same)
    assert len({one, same, other, TrainRecipe()}) == 3
    assert hash(TrainRecipe(epochs=7)) != hash(TrainRecipe())


def test_built_in_recipes_do_not_share_their_mixture():
    TrainRecipe().mixture["lab"] = 1.0
    assert TrainRecipe().mixture == {}


def test_mixture_and_densities_are_read_from_a_file(load):
    train = load("[train]\ndensities = [1, 0.7]\n[train.mixture]\nmonuseg = 2\nlab = 0.5\n").train
    assert (train.mixture, train.densities) == ({"monuseg": 2.0, "lab": 0.5}, (1.0, 0.7))
