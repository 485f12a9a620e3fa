"""The rows of Tables 1 and 2 of the MSAL-Net paper: the published scores, and our network for each row.

Labels are the paper's without reference numbers ("Rest-101" is Res-101). Scores are copied as printed.
"""

import msgspec

from msal_deploy.errors import BadInput, suggest
from msal_deploy.recipe import Backbone, Model, NetworkRecipe


class Published(msgspec.Struct, frozen=True):
    """A row as printed; None for a dash.

    Attributes:
        dc, iou, pr, rc: Dice, intersection over union, precision and recall on the test set.
        training_time: In seconds. The paper does not say of what; it is too short for 300 epochs.
    """

    dc: float | None
    iou: float | None
    pr: float | None
    rc: float | None
    training_time: float | None = None


class Row(msgspec.Struct, frozen=True):
    """A row of a table.

    Attributes:
        key: Name of the network in options and result files. Rows of both tables with the same network share a key.
        label: Name of the network in the paper.
        paper: Published scores.
        network: Our network.
        reading: Whether the network is our reading of an abstract or a name, without its full paper.
    """

    key: str
    label: str
    paper: Published
    network: NetworkRecipe
    reading: bool = False


def msal(backbone: Backbone, *, ddc: bool = False, eca: bool = False, br: bool = False) -> NetworkRecipe:
    """Return MSAL-Net with only the given blocks: the paper's "Backbone + …"."""
    return NetworkRecipe(
        backbone=backbone, dense_dilated=ddc, channel_attention=eca, boundary_refinement=br, weights="random"
    )


def other(model: Model) -> NetworkRecipe:
    """Return a network that the paper compares with. Only the U-Net over a ResNet uses the backbone."""
    return NetworkRecipe(model=model, backbone="resnet18", weights="random")


FULL_R34 = msal("resnet34", ddc=True, eca=True, br=True)
PAPER_R34 = Published(0.839, 0.706, 0.821, 0.853, 194.5)

# A "Backbone" without a ResNet in its label is read as ResNet-18, as in the first row of the table.
TABLE_1 = (
    Row("t1-unet-r18", "Unet + Res-18", Published(0.781, 0.642, 0.774, 0.792, 211.9), other("unet-resnet")),
    Row("t1-r34", "Backbone + Res-34", Published(0.793, 0.652, 0.785, 0.801), msal("resnet34")),
    Row("t1-ddc", "Backbone + DDC", Published(0.810, 0.682, 0.783, 0.845), msal("resnet18", ddc=True)),
    Row("t1-r34-ddc", "Backbone + Res-34 + DDC", Published(0.817, 0.692, 0.790, 0.837), msal("resnet34", ddc=True)),
    Row("t1-eca", "Backbone + ECA", Published(0.809, 0.681, 0.778, 0.829), msal("resnet18", eca=True)),
    Row(
        "t1-eca-br",
        "Backbone + ECA + BR",
        Published(0.815, 0.688, 0.805, 0.827),
        msal("resnet18", eca=True, br=True),
    ),
    Row(
        "t1-ddc-eca",
        "Backbone + DDC + ECA",
        Published(0.820, 0.696, 0.809, 0.848),
        msal("resnet18", ddc=True, eca=True),
    ),
    Row(
        "t1-r18-full",
        "Backbone + Res-18 + DDC + ECA + BR",
        Published(0.829, 0.699, 0.813, 0.846, 181.3),
        msal("resnet18", ddc=True, eca=True, br=True),
    ),
    Row("t1-msal-r34", "MSAL-Net + Res-34", PAPER_R34, FULL_R34),
    Row(
        "t1-msal-r50",
        "MSAL-Net + Res-50",
        Published(0.847, 0.713, 0.816, 0.881, 317.7),
        msal("resnet50", ddc=True, eca=True, br=True),
    ),
    Row(
        "t1-msal-r101",
        "MSAL-Net + Res-101",
        Published(0.830, 0.695, 0.801, 0.862, 429.1),
        msal("resnet101", ddc=True, eca=True, br=True),
    ),
)

TABLE_2 = (
    Row("t2-linknet", "LinkNet", Published(0.767, 0.625, 0.726, 0.809, 178.3), other("linknet")),
    Row("t2-unet", "Unet", Published(0.773, 0.548, 0.758, 0.789, 211.9), other("unet")),
    Row("t2-ce-net", "CE-Net", Published(0.818, 0.693, 0.809, 0.829, 271.1), other("ce-net")),
    Row("t2-attention-unet", "Attention-Unet", Published(0.810, 0.678, 0.779, 0.848, 480.6), other("attention-unet")),
    Row("t2-asspu-net", "ASSPU-Net", Published(0.830, 0.780, None, None, 1133.7), other("asspu-net"), reading=True),
    Row("t2-mdc-net", "MDC-Net", Published(0.802, None, None, None), other("mdc-net"), reading=True),
    Row("t2-bio-net", "Bio-Net", Published(0.826, 0.704, None, None), other("bio-net")),
    Row("t2-cnn3", "CNN3", Published(0.804, 0.498, None, None), other("cnn3")),
    Row("t1-msal-r34", "MSAL-Net", PAPER_R34, FULL_R34),
)

TABLES = {"Table 1: the blocks": TABLE_1, "Table 2: other networks": TABLE_2}

# Each network once, in the order of the tables.
ROWS = {row.key: row for row in (*TABLE_1, *TABLE_2[:-1])}


def choose(keys: list[str] | None) -> list[Row]:
    """Return the rows with the given keys, or all rows.

    Raises:
        BadInput: A key does not exist.
    """
    for key in keys or ():
        if key not in ROWS:
            raise BadInput(f"{key!r} is not a row", suggest(key, ROWS))
    return [row for key, row in ROWS.items() if not keys or key in keys]
