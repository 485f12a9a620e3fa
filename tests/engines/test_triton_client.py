"""The ``triton:ADDRESS`` engine without a server: addresses, patience, and what is said where nobody answers."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.errors import BadInput, MissingExtra, MissingRequirement
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes import triton as client
from msal_deploy.runtimes.triton import Patience, protocols
from msal_deploy.runtimes.triton.address import Address, parse_address
from msal_deploy.runtimes.triton.protocols import TritonError, connect


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://localhost:8000/msal-net", Address("http", "localhost", 8000, "msal-net")),
        ("http://localhost", Address("http", "localhost", 8000, "own")),
        ("grpc://gpu-box/", Address("grpc", "gpu-box", 8001, "own")),
        ("grpc://[::1]:9/unet/2", Address("grpc", "::1", 9, "unet", "2")),
        ("http://h/m?shared-memory=off", Address("http", "h", 8000, "m", shared_memory=False)),
        ("http://h/m?patience=2.5&shared-memory=on", Address("http", "h", 8000, "m", patience=2.5)),
        ("HTTP://LocalHost/m", Address("http", "localhost", 8000, "m")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, "own") == address


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no server; write it like triton:http://localhost:8000/msal-net"),
        ("fp32", "names no server; write it"),
        ("localhost:8000", "names no server; write it"),
        ("htp://localhost", "names no server .did you mean 'http'"),
        ("https://localhost", "names no server .did you mean 'http'"),
        ("http:///msal-net", "names no server; write it"),
        ("http://localhost:many", "is no address"),
        ("http://localhost:99999", "is no address"),
        ("http://[::1", "is no address"),
        ("http://localhost/msal-net/two", "a version of a model is a number"),
        ("http://localhost?patiense=3", "did you mean 'patience'"),
        ("http://localhost?patience=long", "no number of seconds"),
        ("http://localhost?patience=-1", "no number of seconds"),
        ("http://localhost?patience=inf", "no number of seconds"),
        ("http://localhost?shared-memory=no", "neither on nor off"),
    ],
)
def test_what_is_no_address_is_told_before_anything_is_opened(bundle: Bundle, text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        open_engine(bundle, f"triton:{text}")


def test_the_id_is_the_address_as_it_was_written(bundle: Bundle) -> None:
    name = "triton:grpc://localhost:8001/msal-net?patience=5"
    assert open_engine(bundle, name, threads=2).id == name
    with pytest.raises(BadInput, match="triton does not run 2 streams"):
        open_engine(bundle, name, streams=2)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made; the clock goes on by them."""
    made: list[float] = []
    monkeypatch.setattr(client.time, "monotonic", lambda: 1000 + sum(made))
    monkeypatch.setattr(client.time, "sleep", made.append)
    return made


def test_patience_grows_and_ends(pauses: list[float]) -> None:
    patience = Patience(Address("http", "localhost", 8000, "m", patience=20))
    with pytest.raises(MissingRequirement, match=r"asked again for 20 s without an answer \(refused"):
        for _ in range(100):
            patience.spend(TritonError("gone", "refused"))
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6] and max(pauses) == 2.0
    assert 18 <= sum(pauses) <= 20


def test_failures_of_the_server_are_few(pauses: list[float]) -> None:
    patience = Patience(Address("http", "localhost", 8000, "m"))
    patience.spend(TritonError("failed", "out of memory"))
    patience.spend(TritonError("gone", "refused"))
    patience.spend(TritonError("failed", "out of memory"))
    with pytest.raises(MissingRequirement, match="failed: out of memory; see its log"):
        patience.spend(TritonError("failed", "out of memory"))


@pytest.mark.parametrize(("kind", "error"), [("invalid", BadInput), ("late", MissingRequirement)])
def test_what_would_be_refused_again_is_not_asked_again(
    pauses: list[float], kind: protocols.Kind, error: type[Exception]
) -> None:
    with pytest.raises(error, match="too hot"):
        Patience(Address("http", "localhost", 8000, "m")).spend(TritonError(kind, "too hot."))
    assert pauses == []


def test_no_patience_at_all(pauses: list[float]) -> None:
    with pytest.raises(MissingRequirement, match="without an answer"):
        Patience(Address("http", "localhost", 8000, "m", patience=0)).spend(TritonError("gone", "refused"))


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which somebody listens and says nothing that is HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_where_nobody_listens(bundle: Bundle, tmp_path: Path, scheme: str) -> None:
    words = [
        "bench",
        str(bundle.path),
        "--engine",
        f"triton:{scheme}://localhost:1",
        "--json",
        str(tmp_path / "b.json"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    text = " ".join(result.output.split())
    assert text.count("Error: ") == 1 and "Traceback" not in text
    assert f"No Triton answers at {scheme}://localhost:1 (" in text and "start it, or correct the address" in text
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_where_somebody_listens_and_says_nothing(
    bundle: Bundle, silent: int, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(protocols, "CONTROL_TIMEOUT", 0.5)
    engine = open_engine(bundle, f"triton:{scheme}://127.0.0.1:{silent}")
    with pytest.raises(MissingRequirement, match=r"no answer within 0\.5 s"), engine:
        pass


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_without_a_protocol_of_tritonclient_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """tritonclient raises RuntimeError where it was installed without the protocol's own extra."""
    import builtins

    real = builtins.__import__

    def importing(name: str, *arguments: object, **options: object) -> object:
        if name.startswith("tritonclient."):
            raise RuntimeError("The installation does not include support for it")
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingExtra, match=r"pip install 'msal-deploy\[triton\]'"):
        connect(parse_address(f"{scheme}://localhost", "m"))
