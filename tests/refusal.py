"""A refusal: what the command line says of bad input."""

from typer.testing import Result


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One sentence with these words, that exit code, and no traceback."""
    text = " ".join(result.output.split())
    assert result.exit_code == code, text
    assert text.count("Error: ") == 1, text
    assert "Traceback" not in text
    assert all(word in text for word in words), text
