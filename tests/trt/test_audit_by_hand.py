"""The audit of a plan: shares, bounds and deviations of a graph whose multiply-accumulates are counted by hand."""

from pathlib import Path

import pytest
from columns import numbers_in, printed

from msal_deploy.build_trt.report import BuildReport
from msal_deploy.errors import GateFailed
from msal_deploy.graph import Layer
from msal_deploy.trt.audit import actual_precision, choose_layer_precisions
from msal_deploy.trt.layer_precisions import (
    LayerPrecisions,
    check_layers,
    check_requested,
    format_flops,
    precision_shares,
    read_share,
)
from msal_deploy.trt.plan_metadata import ActualPrecision, BuildOptions, PlanMetadata, Profile, Share


def layer(name, macs, precision="fp16"):
    return Layer(name, "Conv", "module", macs, precision, 1)


# 100 in all: 78 in FP16 as the graph requests, 17 in FP32, and 5 of unknown precision
GRAPH = [layer("a", 40), layer("b", 30), layer("c", 17), layer("d", 5), layer("e", 8)]
READ = LayerPrecisions("inspector", {"a": "fp16", "b": "fp16", "c": "fp32", "e": "fp16", "another": "int8"}, 7)
SHARES = {"fp16": Share(3, 3 / 5, 0.78), "fp32": Share(1, 1 / 5, 0.17), "unknown": Share(1, 1 / 5, 0.05)}


def layers_in(source="inspector", **precisions):
    return LayerPrecisions(source, precisions)


def test_shares_are_counted_by_layers_and_by_flops():
    actual = actual_precision(GRAPH, READ)
    assert (actual.read_from, actual.reformats) == ("inspector", 7)
    assert list(actual.shares.items()) == list(SHARES.items())
    assert actual_precision(GRAPH, layers_in("log")) == ActualPrecision("log", {"unknown": Share(5, 1, 1)}, None)


def test_flops_are_listed_with_the_largest_share_first():
    assert format_flops(precision_shares(GRAPH, READ.precisions)) == "78.0% in fp16, 17.0% in fp32, 5.0% in unknown"


def test_a_source_must_name_95_per_cent_of_the_flops():
    most = layers_in(a="fp16", b="fp16", c="fp16", e="fp16")  # all but 5 of 100
    less = layers_in(a="fp16", b="fp16", c="fp16", d="fp16")  # all but 8
    every = layers_in(a="int8", b="int8", c="int8", d="int8", e="int8")
    unknown = layers_in(a="unknown", b="fp16", c="fp16", d="fp16", e="fp16")
    assert [read_share(GRAPH, source.precisions) for source in (most, less, every, unknown)] == [0.95, 0.92, 1.0, 0.6]
    assert choose_layer_precisions(GRAPH, [most, every]) is most
    assert choose_layer_precisions(GRAPH, [None, less, unknown, every, most]) is every
    for sources in ([], [None], [less, unknown]):
        with pytest.raises(GateFailed, match=r"cannot be read from its engine; use another version of TensorRT$"):
            choose_layer_precisions(GRAPH, sources)


def split(fp16, fp32):
    """A graph of two layers, requested in FP16, with so many FLOPs computed in FP16 and in FP32."""
    graph = [layer("a", fp16), layer("b", fp32)]
    return graph, {"a": "fp16", "b": "fp32"}


def test_a_plan_is_in_a_precision_if_half_of_its_flops_are():
    assert check_requested("fp16", *split(5000, 5000)) is None
    assert check_requested("fp16", *split(9999, 1)) is None
    assert check_requested("fp16", [layer("a", 1)], {"a": "fp32"}) is not None
    mismatch = check_requested("fp16", *split(4994, 5006))
    assert "its FLOPs are 50.1% in fp32, 49.9% in fp16" in mismatch.cause


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("of_100", "cause", "remedy"),
    [(50, "although", "another precision"), (70, "although", "another precision"), (49, "as in", "again")],
)
def test_a_mismatch_blames_the_gpu_only_if_half_of_the_graph_is_requested(precision, of_100, cause, remedy):
    graph = [layer("a", of_100, precision), layer("b", 100 - of_100, "fp32")]
    mismatch = check_requested(precision, graph, {"a": "fp32", "b": "fp32"})
    assert cause in mismatch.cause
    assert remedy in mismatch.remedy


def test_deviations_are_counted_and_two_are_named():
    precisions = {"a": "fp16", "b": "fp32", "c": "fp32", "d": "int8", "e": "fp16"}
    wider = check_layers(GRAPH, precisions, wider=True)
    assert wider.cause == (
        "computes 2 of 5 layers (47.0% of the FLOPs) wider than its graph (b in fp32, not fp16; c in fp32, not fp16)"
    )
    assert "--allow-wider" in wider.remedy
    narrower = check_layers(GRAPH, precisions, wider=False)
    assert narrower.cause == "computes 1 of 5 layers (5.0% of the FLOPs) narrower than its graph (d in int8, not fp16)"
    assert "--allow-wider" not in narrower.remedy


def test_the_third_deviation_is_one_more():
    three = check_layers(GRAPH, {"a": "fp32", "b": "fp32", "c": "fp32", "d": "fp16", "e": "fp16"}, wider=True)
    assert three.cause.startswith("computes 3 of 5 layers (87.0% of the FLOPs) wider")
    assert three.cause.endswith("(a in fp32, not fp16; b in fp32, not fp16; and 1 more)")
    every = check_layers(GRAPH, dict.fromkeys("abcde", "fp32"), wider=True)
    assert every.cause.endswith("; and 3 more)")


@pytest.mark.parametrize(
    ("requested", "actual", "wider", "narrower"),
    [
        ("int8", "fp16", True, False),
        ("int8", "bf16", True, False),
        ("int8", "fp32", True, False),
        ("fp16", "fp32", True, False),
        ("bf16", "fp32", True, False),
        ("fp32", "fp16", False, True),
        ("fp32", "bf16", False, True),
        ("fp16", "int8", False, True),
        ("fp16", "bf16", False, True),  # as wide, but another type: not wider
        ("bf16", "fp16", False, True),
        ("fp16", "fp16", False, False),
        ("int8", "int8", False, False),
        ("fp16", "unknown", False, False),
        ("float", "fp16", False, False),
    ],
)
def test_wider_and_narrower(requested, actual, wider, narrower):
    graph, precisions = [layer("a", 1, requested)], {"a": actual}
    assert [check_layers(graph, precisions, wider=way) is not None for way in (True, False)] == [wider, narrower]


def test_a_layer_of_unknown_precision_is_no_deviation():
    assert check_layers(GRAPH, {}, wider=True) is None


def test_the_report_of_a_build():
    plan = PlanMetadata(
        backend="tensorrt", backend_version="10.13.3.9", gpu="l4", sm=("8.9",), graph="g", graph_sha256="0",
        requested="fp16", actual=actual_precision(GRAPH, READ),
        profile=Profile((1, 64, 96), (2, 128, 160), (4, 256, 512)),
        plan_sha256="0", bytes=5 * 2**19, options=BuildOptions(), built="",
    )  # fmt: skip
    table = BuildReport(Path("a.plan"), plan, (), 12.34, False).table()
    cells = [tuple(column.cells) for column in table.columns]
    lines = [list(numbers_in(str(text))) for text in cells[1]]
    assert lines == [
        ["4", "8.9"],
        ["10.13.3.9", "12.3"],
        ["1", "64", "96", "4", "256", "512"],
        ["2", "128", "160"],
        ["2.5"],
        ["16", "78.0%", "3", "60%"],
        ["32", "17.0%", "1", "20%"],
        ["5.0%", "1", "20%"],
        ["7"],
        [],
    ]
    assert [str(text).split(":")[0] for text in cells[1]][5:8] == ["fp16", "fp32", "unknown"]
    assert "78.0%" in printed(table)
