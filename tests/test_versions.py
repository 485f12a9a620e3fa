"""Versions are compared by their first three numbers."""

import pytest

from msal_deploy.versions import parse_version


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8.6", (8, 6)),
        ("10.13.3.9", (10, 13, 3)),
        ("535.183.01", (535, 183, 1)),
        ("2.13.0+cu126", (2, 13, 0)),
        ("latest", ()),
        ("", ()),
    ],
)
def test_a_version_is_its_first_three_numbers(text, numbers):
    assert parse_version(text) == numbers
