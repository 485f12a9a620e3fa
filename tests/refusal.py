"""A refusal: what the command line says of bad input."""

import re

from typer.testing import Result

OWN_FOLDER = re.compile(r"\S*?/pytest-of-[^/\s]+/pytest-\d+/[^/\s]+")  # pytest's, named after the test


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One sentence with these words, that exit code, and no traceback. Words in the test's own folder do not count."""
    text = OWN_FOLDER.sub("FOLDER", " ".join(result.output.split()))
    assert result.exit_code == code, text
    assert text.count("Error: ") == 1, text
    assert "Traceback" not in text
    assert all(OWN_FOLDER.sub("FOLDER", word) in text for word in words), text
