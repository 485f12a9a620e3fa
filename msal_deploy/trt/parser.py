"""What the ONNX parser of each TensorRT reads: the tables in ``parsers/*.toml``, by version."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from msal_deploy.errors import BadInput

PARSERS = ("8.6", "10.0", "10.15", "11.0")  # the first TensorRT that each table holds for
RTX_READS_AS = "10.0"  # TensorRT-RTX 1.x: its parser is that of 10.x, and no list of its own was found


class Parser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one version of TensorRT's ONNX parser reads.

    Attributes:
        source: where that is documented.
        opset: the smallest and the largest.
        operators: name -> types of its data input.
        reads_as: types that are cast to another one where they are read.
        quantised_types, scale_types: of QuantizeLinear's output and of its scale.
        zero_point_needed: whether QuantizeLinear and DequantizeLinear must have one.
        deconvolution_axis: along which a ConvTranspose's weights may have a scale each; None for any.
        constant_inputs: operator -> the input that must be known before the build.
        first_output_only: operators whose further outputs are not read.
        attributes: operator -> attribute -> the values that are read.
    """

    source: str
    opset: tuple[int, int]
    operators: dict[str, frozenset[str]]
    reads_as: dict[str, str]
    quantised_types: frozenset[str]
    scale_types: frozenset[str]
    zero_point_needed: bool
    constant_inputs: dict[str, int]
    first_output_only: frozenset[str]
    attributes: dict[str, dict[str, list[Any]]]
    deconvolution_axis: int | None = None


def find_parser(tensorrt: str) -> Parser:
    """Return what the parser of a TensorRT reads.

    Raises:
        BadInput: it is no version, or one from before 8.6.
    """
    version = _numbers(tensorrt)
    if version and version[0] == 1:
        return _parser(RTX_READS_AS)
    known = [first for first in PARSERS if _numbers(first) <= version]
    if not known:
        raise BadInput(f"What TensorRT {tensorrt!r} reads is not known here; give 8.6 or later")
    return _parser(known[-1])


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(map(int, parts[:2])) if all(part.isdecimal() for part in parts[:2]) else ()


@cache
def _parser(name: str) -> Parser:
    return msgspec.convert(_table(name), Parser)


def _table(name: str) -> dict[str, Any]:
    """Read a table; it has what it does not name from the one that it is `like`, and adds to its operators."""
    file = resources.files("msal_deploy.trt").joinpath("parsers", f"{name}.toml")
    own = tomllib.loads(file.read_text(encoding="utf-8"))
    base = _table(own.pop("like")) if "like" in own else {"operators": {}}
    for key in {"quantised_types", "scale_types", "first_output_only"} & own.keys():
        own[key] = own[key].split()
    groups = own.pop("operators", [])
    added = {operator: group["types"].split() for group in groups for operator in group["names"].split()}
    return base | own | {"operators": base["operators"] | added}
