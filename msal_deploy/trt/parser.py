"""What the ONNX parser of each TensorRT supports: the tables in ``parsers/*.toml``, by version."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from msal_deploy.errors import BadInput
from msal_deploy.versions import parse_version

PARSERS = ("8.6", "10.0", "10.15", "11.0")  # the first TensorRT that each table applies to
PARSER_OF_RTX = "10.0"  # TensorRT-RTX 1.x has the parser of 10.x; no list of its own has been published


class Parser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one version of TensorRT's ONNX parser supports.

    Attributes:
        source: Where this is documented.
        opset: First and last opset.
        operators: Operator -> types of its data input.
        reads_as: Types that the parser casts -> the type that it casts them to.
        quantised_types: Types that QuantizeLinear may write.
        scale_types: Types of the scales of QuantizeLinear and DequantizeLinear.
        zero_point_needed: Whether QuantizeLinear and DequantizeLinear need a zero point.
        constant_inputs: Operator -> index of the input that must be a constant.
        first_output_only: Operators of which only the first output is supported.
        attributes: Operator -> attribute -> supported values.
        deconvolution_axis: Axis along which the weights of a ConvTranspose may be scaled; None for any.
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
    """Return the parser of a TensorRT version.

    >>> find_parser("8.6.1").opset
    (7, 17)
    >>> "Mish" in find_parser("8.6.1").operators, "Mish" in find_parser("10.4.0").operators
    (False, True)

    Raises:
        BadInput: `tensorrt` is not a version, or is older than 8.6.
    """
    version = parse_version(tensorrt)
    if version[:1] == (1,):
        return _parser(PARSER_OF_RTX)
    supported = [first for first in PARSERS if parse_version(first) <= version]
    if not supported:
        raise BadInput(f"TensorRT {tensorrt!r} is not supported", "use version 8.6 or later")
    return _parser(supported[-1])


@cache
def _parser(name: str) -> Parser:
    return msgspec.convert(_table(name), Parser)


def _table(name: str) -> dict[str, Any]:
    """Read a table. It inherits from the table that `like` names, and adds to its operators."""
    file = resources.files("msal_deploy.trt").joinpath("parsers", f"{name}.toml")
    own = tomllib.loads(file.read_text(encoding="utf-8"))
    base = _table(own.pop("like")) if "like" in own else {"operators": {}}
    for key in {"quantised_types", "scale_types", "first_output_only"} & own.keys():
        own[key] = own[key].split()
    groups = own.pop("operators", [])
    added = {operator: group["types"].split() for group in groups for operator in group["names"].split()}
    return base | own | {"operators": base["operators"] | added}
