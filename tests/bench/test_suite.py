"""Suites: the files that are shipped, and what is wrong with others."""

import pytest

from msal_deploy.bench.suite import FOLDER, Suite, read_suite
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import all_engines

NAMES = ("baselines", "cpu", "gpu", "guard", "quick")


def test_these_suites_have_names():
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.toml"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_suite_names_engines_of_the_catalogue_and_a_baseline_among_them(name):
    suite = read_suite(name)
    assert set(suite.engines) <= {*all_engines(), "onnxruntime:fp16"}
    assert suite.baseline == suite.engines[0] and len(set(suite.engines)) == len(suite.engines) > 1
    assert suite.description.endswith(".")


def test_options_have_the_names_and_types_of_the_command_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "d"\nengines = ["a:fp32", "b:int8"]\nbaseline = "a:fp32"\nbatches = [1, 8]\nsize = "256x512"\n'
        "threads = [1, 2]\nstreams = [2]\nseconds = 0.25\nwindows = 3\nrounds = 4\n"
    )
    assert read_suite(str(path)).options() == {
        "engine": ["a:fp32", "b:int8"], "baseline": "a:fp32", "batch": [1, 8], "size": "256x512", "threads": [1, 2],
        "streams": [2], "seconds": 0.25, "windows": 3, "rounds": 4,
    }  # fmt: skip
    assert Suite(size=256).options() == {"size": "256"} and Suite().options() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engins = []", "Object contains unknown field `engins`"),
        ('engines = "openvino:int8"', "Expected `array | null`, got `str` - at `$.engines`"),
        ("batches = [0]", "Expected `int` >= 1"),
        ("seconds = 0", "Expected `float` > 0"),
        ("seconds = 1e9", "<= 3600"),
        ("windows = 0", ">= 1"),
        ("rounds = 2.5", "Expected `int"),
        ("size = 1.5", "Expected `int | str"),
    ],
)
def test_a_file_that_is_no_suite_is_refused_in_one_sentence(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_suite(str(path))
    assert str(caught.value).startswith(f"{path} is not a suite (") and said in str(caught.value)
    assert caught.value.remedy == "see msal-deploy bench --help for the options that it may set"


@pytest.mark.parametrize("text", ["= 3", "seconds = nan"])
def test_what_is_no_toml_of_finite_numbers_is_refused(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"mine\.toml is not valid TOML \("):
        read_suite(str(path))


def test_a_name_that_no_suite_has_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"'cpus' is not a suite; did you mean 'cpu'\?"):
        read_suite("cpus")
    with pytest.raises(BadInput, match=r"'\.\./cpu' is not a suite"):
        read_suite("../cpu")
    with pytest.raises(BadInput, match="'cpu' is not a suite; name a TOML file: suites have names only in a source"):
        read_suite("cpu", tmp_path)
    with pytest.raises(BadInput, match=r"The suite none\.toml does not exist; check the path"):
        read_suite("none.toml")
