"""Recipes, targets and results."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from stage import REFUSED, Case

from corpus.damage import Make, both, copy, damages, oddities, write


def tables(source: Path) -> Iterator[Case]:
    recipe, target = (source / "recipe.toml").read_bytes(), (source / "target.toml").read_bytes()
    train = ("train", "--data", "../good/data", "--recipe", "a.toml", "--out", "r")
    export = ("export", "../good/weights.pt", "--recipe", "a.toml", "--out", "b")
    doctor = ("doctor", "--gpu", "a.toml")
    lines = {
        "a number of 5,000 digits": b"seed = " + b"9" * 5000,
        "a nested list": b"x = " + b"[" * 5000,
        "a nested list, closed": b"x = " + b"[" * 5000 + b"]" * 5000,
        "a nested table": b"[" + b".".join([b"a"] * 5000) + b"]",
        "a key twice": b"name = 1\nname = 2",
        "no TOML": b"name: tiny",
        "not UTF-8": b'name = "\xff"',
        "UTF-16": 'name = "a"'.encode("utf-16"),
        "NUL": b'name = "\0"',
        "a date": b"name = 1979-05-27",
        "a number as its name": b"name = 7",
    }
    for title, content in {**lines, **damages(recipe, "recipe", 2)}.items():
        if title in ("empty", "cut at 10%", "cut at 50%", "cut by 1 byte") or title.startswith("flipped"):
            continue
        yield Case("recipes", title, train, write("a.toml", content))
        yield Case("recipes", title, export, write("a.toml", content))
        yield Case("targets", title, doctor, write("a.toml", content))
        kit = ("package", "../good/bundle", "build-kit", "--gpu", "a.toml", "--out", "out")
        yield Case("targets", title, kit, write("a.toml", content))
    for title, odd in oddities("a.toml").items():
        yield Case("recipes", f"is {title}", train, odd)
        yield Case("targets", f"is {title}", doctor, odd)
    values = ("nan", "inf", "-1", "0", "1e999", "''", "[]", "{}", "true", "99999999999999999999", "'$(touch PWNED)'")
    for key, value in itertools.product(
        ("patch", "epochs", "batch", "rate", "validation", "optimizer", "loss"), values
    ):
        if (key, value) in (("rate", "0"), ("validation", "0"), ("validation", "true")):
            continue
        content = f"[train]\n{key} = {value}\n".encode()
        yield Case("recipes", f"train.{key} = {value}", train, write("a.toml", content))
    for key, value in itertools.product(("name", "gpu", "sm", "preferred", "like"), values):
        content = b"\n".join(line for line in target.splitlines() if not line.startswith(key.encode() + b" "))
        make = write("a.toml", f"{key} = {value}\n".encode() + content)
        exits = frozenset({0, 2, 3}) if key in ("name", "gpu") and value.startswith("'") else REFUSED
        yield Case("targets", f"{key} = {value}", doctor, make, exits)


def results(source: Path) -> Iterator[Case]:
    path = source / "report" / "report.json"
    content = path.read_bytes()
    raw = {
        "an object": b"{}",
        "a list": b"[]",
        "null": b"null",
        "nested": b"[" * 50_000,
        "not UTF-8": b'{"a": "\xff"}',
        "NaN": b'{"a": NaN}',
        "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    }
    for title, damaged in {**raw, **damages(content, "report", 4)}.items():
        exits = frozenset({0, 2}) if title.startswith("flipped") else REFUSED
        make = both(copy("report"), write("report/report.json", damaged))
        yield Case("results", title, ("report", "report"), make, exits)
    for title, odd in oddities("report/report.json").items():
        yield Case("results", f"is {title}", ("report", "report"), both(copy("report"), odd))
    document = json.loads(content)
    for key in document:
        for value in (None, [], {}, "x", -1):
            if (key, value) == ("gallery", []):
                continue  # a report without pictures is one, too
            text = json.dumps({**document, key: value}).encode()
            make = both(copy("report"), write("report/report.json", text))
            yield Case("results", f"{key} = {value!r}", ("report", "report"), make, frozenset({0, 2}))
    yield Case(
        "results",
        "no pictures",
        ("report", "report"),
        both(copy("report"), without("report/pictures")),
        frozenset({0, 2}),
    )
    for command in ("report", "view"):
        for title, odd in oddities("folder").items():
            yield Case("results", f"the folder is {title}", (command, "folder"), odd)


def without(name: str) -> Make:
    return lambda folder: shutil.rmtree(folder / name, ignore_errors=True)
