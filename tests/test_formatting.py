"""How the page writes numbers, at the places where their writing changes."""

import pytest

from msal_deploy.report import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123, "+0.0012"),
        (-0.00123, "−0.0012"),
        (-3.14e-6, "−3.1e−06"),
        (5e-5, "+0.0001"),
        (4.9e-5, "+4.9e−05"),
    ],
)
def test_a_difference_of_four_digits(value, text):
    assert formatting.signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.001234, "+0.00123"), (-0.001234, "−0.00123"), (5e-6, "+0.00001"), (-5e-6, "−0.00001"),
        (4.9e-6, "+4.9e−06"), (-4.9e-6, "−4.9e−06"),
    ],
)  # fmt: skip
def test_a_difference_of_five_digits(value, text):
    assert formatting.fine(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.03125, "3.1e−02"), (1234.5, "1.2e+03"), (-0.5, "−5.0e−01")])
def test_a_power_of_ten(value, text):
    assert formatting.scientific(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0%"), (1, "100%"), (0.0004, "<0.1%"), (0.0006, "0.1%"), (0.5, "50.0%"), (0.1234, "12.3%"),
        (0.9994, "99.9%"), (0.9996, ">99.9%"), (0.00001, "<0.1%"),
    ],
)  # fmt: skip
def test_a_share_is_none_or_all_only_where_it_is(value, text):
    assert formatting.share(value) == text


def test_a_number_of_things():
    assert [formatting.count(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [formatting.count(number, "patch", "patches") for number in (0, 1, 2)] == [
        "0 patches",
        "1 patch",
        "2 patches",
    ]


def test_a_sample():
    assert formatting.patches_of_images({"patches": 56, "images": 14}) == "56 patches of 14 images"
    assert formatting.patches_of_images({"patches": 1, "images": 1}) == "1 patch of 1 image"


def row(**setting):
    return {"engine": "a:fp32", **setting}


def test_settings_are_named_where_they_differ():
    assert formatting.result_names([]) == []
    assert formatting.result_names([row(threads=1, streams=1)] * 2) == ["a:fp32"] * 2
    threads = formatting.result_names([row(threads=1, streams=3), row(threads=2, streams=3)])
    assert threads == ["a:fp32, 1 thread", "a:fp32, 2 threads"]
    streams = formatting.result_names([row(threads=2, streams=1), row(threads=2, streams=4)])
    assert streams == ["a:fp32, 1 stream", "a:fp32, 4 streams"]
    both = formatting.result_names([row(threads=None, streams=1), row(threads=2, streams=3)])
    assert both == ["a:fp32, threads by its runtime, 1 stream", "a:fp32, 2 threads, 3 streams"]
    assert formatting.result_names([row(), row()]) == ["a:fp32"] * 2  # of a file from before there were settings
