"""The ``triton:ADDRESS`` engine without a server: addresses, retries, and messages if no server responds."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.errors import BadInput, MissingExtra, MissingRequirement
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.triton import Retries, protocols
from msal_deploy.runtimes.triton import engine as client
from msal_deploy.runtimes.triton.address import Address, parse_address
from msal_deploy.runtimes.triton.protocols import TritonError, connect
from msal_deploy.runtimes.triton.session import _served_graph


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://localhost:8000/msal-net", Address("http", "localhost", 8000, "msal-net")),
        ("http://localhost", Address("http", "localhost", 8000, "own")),
        ("grpc://gpu-box/", Address("grpc", "gpu-box", 8001, "own")),
        ("grpc://[::1]:9/unet/2", Address("grpc", "::1", 9, "unet", "2")),
        ("http://h/m?shared-memory=off", Address("http", "h", 8000, "m", shared_memory=False)),
        ("http://h/m?patience=2.5&shared-memory=on", Address("http", "h", 8000, "m", retry_seconds=2.5)),
        ("HTTP://LocalHost/m", Address("http", "localhost", 8000, "m")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, "own") == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an address with .*; use the form triton:http://localhost:8000/msal-net"),
        ("fp32", "and a host; use the form"),
        ("localhost:8000", "and a host; use the form"),
        ("htp://localhost", "and a host; did you mean 'http'"),
        ("https://localhost", "and a host; did you mean 'http'"),
        ("http:///msal-net", "and a host; use the form"),
        ("http://localhost:many", "is not an address .*; use the form"),
        ("http://localhost:99999", "is not an address .*; use the form"),
        ("http://[::1", "is not an address .*; use the form"),
        ("http://localhost/msal-net/two", "Expected a number as the model's version, got 'two'"),
        ("http://localhost?patiense=3", "'patiense' is not an option .*; did you mean 'patience'"),
        ("http://localhost?patience=long", "Expected patience in seconds"),
        ("http://localhost?patience=-1", "Expected patience in seconds"),
        ("http://localhost?patience=inf", "Expected patience in seconds"),
        ("http://localhost?shared-memory=no", "Expected shared-memory=on or off in a Triton address, got 'no'"),
    ],
)
def test_open_engine_rejects_an_invalid_address(bundle: Bundle, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_engine(bundle, f"triton:{text}")


def test_id_is_the_address_as_written(bundle: Bundle) -> None:
    name = "triton:grpc://localhost:8001/msal-net?patience=5"
    assert open_engine(bundle, name, threads=2).id == name
    with pytest.raises(BadInput, match="triton does not support 2 streams"):
        open_engine(bundle, name, streams=2)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of `sleep`, which advance the clock and do not wait."""
    made: list[float] = []
    monkeypatch.setattr(client.time, "monotonic", lambda: 1000 + sum(made))
    monkeypatch.setattr(client.time, "sleep", made.append)
    return made


def test_retries_wait_longer_each_time_and_end(pauses: list[float]) -> None:
    retries = Retries(Address("http", "localhost", 8000, "m", retry_seconds=20))
    with pytest.raises(MissingRequirement, match=r"did not respond within 20 s of retries \(refused\); start it again"):
        for _ in range(100):
            retries.wait(TritonError("unavailable", "refused"))
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6] and max(pauses) == 2.0
    assert 18 <= sum(pauses) <= 20


def test_retries_end_after_three_failures_of_the_server(pauses: list[float]) -> None:
    retries = Retries(Address("http", "localhost", 8000, "m"))
    retries.wait(TritonError("failed", "out of memory"))
    retries.wait(TritonError("unavailable", "refused"))
    retries.wait(TritonError("failed", "out of memory"))
    with pytest.raises(MissingRequirement, match=r"failed \(out of memory\); see its log"):
        retries.wait(TritonError("failed", "out of memory"))


@pytest.mark.parametrize(("kind", "error"), [("invalid", BadInput), ("timeout", MissingRequirement)])
def test_retries_end_at_once_for_errors_that_would_repeat(
    pauses: list[float], kind: protocols.Kind, error: type[Exception]
) -> None:
    with pytest.raises(error, match="too hot"):
        Retries(Address("http", "localhost", 8000, "m")).wait(TritonError(kind, "too hot."))
    assert pauses == []


def test_zero_seconds_mean_no_retry(pauses: list[float]) -> None:
    with pytest.raises(MissingRequirement, match="did not respond within 0 s"):
        Retries(Address("http", "localhost", 8000, "m", retry_seconds=0)).wait(TritonError("unavailable", "refused"))


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which a listener accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_bench_reports_a_server_that_is_not_available(bundle: Bundle, tmp_path: Path, scheme: str) -> None:
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
    assert f"Triton at {scheme}://localhost:1 is not available (" in text and "start it, or correct the address" in text
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_silent_server_times_out(bundle: Bundle, silent: int, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr(protocols, "CONTROL_TIMEOUT", 0.5)
    engine = open_engine(bundle, f"triton:{scheme}://127.0.0.1:{silent}")
    with pytest.raises(MissingRequirement, match=r"no response within 0\.5 s"), engine:
        pass


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_missing_protocol_of_tritonclient_names_the_extra(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """tritonclient raises RuntimeError if it was installed without the protocol."""
    import builtins

    real = builtins.__import__

    def importing(name: str, *arguments: object, **options: object) -> object:
        if name.startswith("tritonclient."):
            raise RuntimeError("The installation does not include support for it")
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingExtra, match=r"pip install 'msal-deploy\[triton\]'"):
        connect(parse_address(f"{scheme}://localhost", "m"))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"graph": "model.fp32.onnx"}'])
def test_version_that_config_does_not_describe_is_checked_with_the_request(text: str) -> None:
    """A version may be deployed without a word in config.pbtxt; then model.py compares the graph."""
    parameters = {"version_1": {"string_value": text}, "version_2": {"string_value": '{"graph_sha256": "abc"}'}}
    assert _served_graph({"parameters": parameters}, "1") is None
    assert _served_graph({"parameters": parameters}, "2") == "abc"
    assert _served_graph({"parameters": parameters}, "3") is None and _served_graph({}, "1") is None
