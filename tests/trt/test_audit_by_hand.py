"""The audit of a plan: shares, bounds and deviations of a graph whose multiply-accumulates are counted by hand."""

from pathlib import Path

import pytest
from columns import numbers_in, printed

from msal_deploy.build_trt.report import BuildReport
from msal_deploy.errors import GateFailed
from msal_deploy.graph import Layer
from msal_deploy.trt.audit import choose_layer_precisions, find_deviations, find_fault, realised
from msal_deploy.trt.layer_precisions import LayerPrecisions
from msal_deploy.trt.plan_metadata import ActualPrecision, BuildOptions, PlanMetadata, Profile, Share


def layer(name, macs, precision="fp16"):
    return Layer(name, "Conv", "module", macs, precision, 1)


# 100 in all, 78 of them in FP16 as the graph asks, 17 in FP32, and 5 that nothing is said of
GRAPH = [layer("a", 40), layer("b", 30), layer("c", 17), layer("d", 5), layer("e", 8)]
READ = LayerPrecisions("inspector", {"a": "fp16", "b": "fp16", "c": "fp32", "e": "fp16", "another": "int8"}, 7)
SHARES = {"fp16": Share(3, 3 / 5, 0.78), "fp32": Share(1, 1 / 5, 0.17), "unknown": Share(1, 1 / 5, 0.05)}


def reading(source="inspector", **precisions):
    return LayerPrecisions(source, precisions)


def test_shares():
    found = realised(GRAPH, READ)
    assert (found.read_from, found.reformats) == ("inspector", 7)
    assert list(found.shares.items()) == list(SHARES.items())
    assert realised(GRAPH, reading("log")) == ActualPrecision("log", {"unknown": Share(5, 1, 1)}, None)


def test_a_source_must_name_95_per_cent_of_the_flops():
    most = reading(a="fp16", b="fp16", c="fp16", e="fp16")  # all but 5 of 100
    less = reading(a="fp16", b="fp16", c="fp16", d="fp16")  # all but 8
    alls = reading(a="int8", b="int8", c="int8", d="int8", e="int8")
    unknown = reading(a="unknown", b="fp16", c="fp16", d="fp16", e="fp16")
    assert choose_layer_precisions(GRAPH, [most, alls]) is most
    assert choose_layer_precisions(GRAPH, [None, less, unknown, alls, most]) is alls
    for readings in ([], [None], [less, unknown]):
        with pytest.raises(GateFailed, match="cannot be read"):
            choose_layer_precisions(GRAPH, readings)


def shares(**of_flops):
    return ActualPrecision("log", {name: Share(1, 0.1, share) for name, share in of_flops.items()})


def test_a_plan_is_of_a_precision_that_half_of_its_flops_are_in():
    assert find_fault("fp16", GRAPH, shares(fp16=0.5, fp32=0.5)) == ""
    assert find_fault("fp16", GRAPH, shares(fp16=1.0)) == ""
    assert find_fault("fp16", GRAPH, shares(fp32=1.0))
    fault = find_fault("fp16", GRAPH, shares(fp16=0.4949, fp32=0.5051))
    assert list(numbers_in(fault.partition(";")[0])) == ["16", "49%", "16", "51%", "32"]
    assert "49% in fp16, 51% in fp32" in fault


@pytest.mark.parametrize(("of_100", "blamed"), [(50, "GPU"), (70, "GPU"), (49, "graph again")])
def test_what_a_fault_is_blamed_on(of_100, blamed):
    """Where half of the graph is what was asked for, it is the machine that has not got it."""
    graph = [layer("a", of_100, "int8"), layer("b", 100 - of_100, "fp32")]
    assert blamed in find_fault("int8", graph, shares(fp32=1.0))
    graph = [layer("a", of_100, "fp16"), layer("b", 100 - of_100, "fp32")]
    assert blamed in find_fault("fp16", graph, shares(fp32=1.0))


def test_deviations_are_counted_and_two_are_named():
    found = find_deviations(GRAPH, reading(a="fp16", b="fp32", c="fp32", d="int8", e="fp16"), wider=True)
    assert list(numbers_in(found)) == ["2", "5", "47.0%", "32", "16", "32", "16"]
    assert "b in fp32 and not fp16, c in fp32 and not fp16" in found and "more" not in found
    narrower = find_deviations(GRAPH, reading(a="fp16", b="fp32", c="fp32", d="int8", e="fp16"), wider=False)
    assert list(numbers_in(narrower)) == ["1", "5", "5.0%", "8", "16"]
    assert ("wider" in found, "narrower" in found) == (True, False)
    assert ("wider" in narrower, "narrower" in narrower) == (False, True)


def test_the_third_deviation_is_one_more():
    found = find_deviations(GRAPH, reading(a="fp32", b="fp32", c="fp32", d="fp16", e="fp16"), wider=True)
    assert found.endswith("a in fp32 and not fp16, b in fp32 and not fp16 and 1 more")
    assert list(numbers_in(found))[:3] == ["3", "5", "87.0%"]
    every = find_deviations(GRAPH, reading(**dict.fromkeys("abcde", "fp32")), wider=True)
    assert every.endswith("and 3 more")


@pytest.mark.parametrize(
    ("wanted", "found", "wider", "narrower"),
    [
        ("int8", "fp16", True, False),
        ("int8", "bf16", True, False),
        ("int8", "fp32", True, False),
        ("fp16", "fp32", True, False),
        ("bf16", "fp32", True, False),
        ("fp32", "fp16", False, True),
        ("fp32", "bf16", False, True),
        ("fp16", "int8", False, True),
        ("fp16", "bf16", False, True),  # as wide, and something else: no wider
        ("bf16", "fp16", False, True),
        ("fp16", "fp16", False, False),
        ("int8", "int8", False, False),
        ("fp16", "unknown", False, False),
        ("float", "fp16", False, False),
    ],
)
def test_which_is_wider(wanted, found, wider, narrower):
    graph, read = [layer("a", 1, wanted)], reading(a=found)
    assert [bool(find_deviations(graph, read, wider=way)) for way in (True, False)] == [wider, narrower]


def test_a_layer_that_nothing_is_said_of_deviates_in_nothing():
    assert find_deviations(GRAPH, reading(), wider=True) == ""


def test_the_report_of_a_build():
    plan = PlanMetadata(
        backend="tensorrt", backend_version="10.13.3.9", gpu="l4", sm=("8.9",), graph="g", graph_sha256="0",
        requested="fp16", realised=realised(GRAPH, READ), profile=Profile((1, 64, 96), (2, 128, 160), (4, 256, 512)),
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
