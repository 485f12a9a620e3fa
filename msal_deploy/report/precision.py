"""The precision section of the page: calibration, layer precisions, and the change of Dice of FP16 and INT8."""

from typing import Any

from msal_deploy.report.formatting import Json, count, fine, patches_of_images, scientific, share

MAX_FP16 = 65_504
SHOWN_NODES = 15  # of the ranking; the rest is in a collapsed block
METHODS = {"minmax": "min-max"}


def precision_section(precision: Json) -> dict[str, Any]:
    """Return the template variables of the section for the value of `PrecisionReport.to_json`."""
    fp16, int8 = precision["fp16"], precision["int8"]
    search = int8["search"] if int8 else None
    return {
        "title": " and ".join(name for name, graph in (("INT8", int8), ("FP16", fp16)) if graph) or "nothing",
        "facts": _calibration(precision) | (_fp16(fp16) if fp16 else {}) | (_int8(int8) if int8 else {}),
        "modules": _modules(int8, _float_nodes_without_macs(int8)) if int8 else [],
        "ranking": _ranking(search, int8["float_nodes"]) if search else [],
        "shown": SHOWN_NODES,
        "search": search and {**search, "trials": _trials(search)},
        "draws": int8["sensitivity"] if int8 else [],
        "spread": _spread(int8["sensitivity"]) if int8 and int8["sensitivity"] else "",
    }


def _calibration(precision: Json) -> dict[str, str]:
    method = METHODS.get(precision["method"], precision["method"])
    tiles = f"{count(precision['tiles'], 'tile')} of {count(precision['images'], 'training image')}"
    return {"Calibration": f"{tiles}; {method} method"}


def _fp16(fp16: Json) -> dict[str, str]:
    largest = fp16["largest_value"]
    value = f"{largest:,.0f}" if largest >= 100 else f"{largest:.3g}"
    return {
        "FP16: kept in FP32": _names(fp16["kept_fp32"]),
        "FP16: largest value": f"{value}, in {fp16['largest_tensor']}; the FP16 maximum is {MAX_FP16:,}",
        "FP16: largest |Δp|": f"{scientific(fp16['max_abs_delta'])} from FP32, on the calibration tiles",
    }


def _int8(int8: Json) -> dict[str, str]:
    facts = {"INT8: share": f"{share(int8['share_of_macs'])} of the multiply-accumulates"}
    if search := int8["search"]:
        facts["INT8: judged on"] = (
            f"{patches_of_images(search)} held out from training; budget {search['budget']:g} Dice"
        )
        facts["INT8: back in float"] = _names(int8["float_nodes"])
    return facts


def _names(nodes: list[str]) -> str:
    return f"{len(nodes)}: {', '.join(nodes)}" if nodes else "none"


def _float_nodes_without_macs(int8: Json) -> list[Json]:
    """Return the nodes that the search returned to float and that are not layers, such as an Add."""
    layers = {layer["name"] for layer in int8["layers"]}
    ranking = int8["search"]["ranking"] if int8["search"] else []
    module_of = {row["node"]: row["module"] for row in ranking}
    others = [node for node in int8["float_nodes"] if node not in layers]
    return [{"name": node, "module": module_of.get(node, ""), "macs": 0, "precision": "float"} for node in others]


def _modules(int8: Json, others: list[Json]) -> list[dict[str, Any]]:
    """Return a row for each module, in the order of the graph."""
    nodes = [*int8["layers"], *others]
    names = dict.fromkeys(node["module"] for node in nodes)
    return [_module(name, [node for node in nodes if node["module"] == name]) for name in names]


def _module(name: str, nodes: list[Json]) -> dict[str, Any]:
    macs = sum(node["macs"] for node in nodes)
    in_float = [node for node in nodes if node["precision"] != "int8"]
    return {
        "module": name or "(none)",
        "layers": sum(node["macs"] > 0 for node in nodes),
        "gmac": macs / 1e9,
        "share": share(sum(node["macs"] for node in nodes if node["precision"] == "int8") / macs) if macs else "–",
        "float": [f"{_within(node['name'], name)} ({node['precision']})" for node in in_float],
    }


def _within(node: str, module: str) -> str:
    """Shorten a node's name for the row of its module: ``/network/head/head.2/Conv`` -> ``head.2/Conv``."""
    _, separator, rest = node.partition(f"/{module}/")
    return rest if module and separator else node


def _ranking(search: Json, returned: list[str]) -> list[dict[str, Any]]:
    return [{**row, "returned": row["node"] in returned} for row in search["ranking"]]


def _trials(search: Json) -> list[dict[str, Any]]:
    return [
        {**trial, "chosen": index == search["chosen"], "passed": trial["delta_dice"]["lower"] >= -search["budget"]}
        for index, trial in enumerate(search["trials"])
    ]


def _spread(draws: list[Json]) -> str:
    scores = [draw["dice"] for draw in draws]
    return fine(max(scores) - min(scores)).removeprefix("+")
