"""Which options of bench go together. Nothing is opened: the bundle does not exist."""

import inspect

import pytest
from typer.testing import CliRunner

from msal_deploy.cli import app
from msal_deploy.cli.bench import bench
from msal_deploy.cli.bench_modes import ALWAYS, IN_TURNS, MODES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tune --threads 2", "--tune cannot be combined with --threads; leave out one of them"),
        ("--tune --batch 2 --streams 2", "--tune cannot be combined with --batch or --streams; leave out one"),
        ("--in-flight 2 --rate 3 --windows 2", "--in-flight or --rate cannot be combined with --windows; leave out"),
        ("--roofline --streams 2 --tune", "--tune cannot be combined with --streams or --roofline"),
        ("--predict a.png --csv x.csv", "--predict cannot be combined with --csv"),
        ("--plot roof.png", "--plot needs --in-flight, --rate, --p99-under or --roofline; give one of them"),
        ("--timeline t.svg", "--timeline needs --predict; give one of them"),
        ("--arrivals constant", "--arrivals needs --in-flight, --rate or --p99-under"),
        ("--batch 2", "nowhere is not a bundle"),
    ],
)
def test_options_of_different_modes_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["bench", "nowhere", *words.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_every_option_belongs_to_a_mode():
    options = set(inspect.signature(bench).parameters) - {"context"}
    assert options == ALWAYS.union(*(set(mode.starts) | mode.takes for mode in (IN_TURNS, *MODES)))
