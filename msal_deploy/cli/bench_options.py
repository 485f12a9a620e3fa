"""The options of ``msal-deploy bench`` that several of its modes take."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import output, plot_file

EngineNames = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        "-e",
        help="An engine such as openvino:int8; repeatable. all: every engine of the catalogue that can run here. "
        "Default: every engine installed on this machine that the bundle has a graph for.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="ENGINE", help="Engine that speed-ups are relative to; it is timed as well. Default: the first."
    ),
]
Batches = Annotated[
    list[int] | None, typer.Option("--batch", "-b", min=1, help="Images per call; repeatable. Default: 1 and 4.")
]
ThreadCounts = Annotated[
    list[int] | None, typer.Option(min=1, help="CPU threads; repeatable. Default: each runtime chooses.")
]
StreamCounts = Annotated[
    list[int] | None,
    typer.Option(min=1, help="Images of a batch computed in parallel, if the runtime can; repeatable. Default: 1."),
]
Size = Annotated[str, typer.Option(help="Image size in pixels: a side, or HEIGHTxWIDTH; multiples of 32.")]
ImageFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Cut the images from those in this folder. Default: synthetic tissue."),
]
Windows = Annotated[int, typer.Option(min=1, max=1000, help="Number of time windows per setting in each round.")]
Rounds = Annotated[
    int, typer.Option(min=1, max=1000, help="How often every engine is started anew, in a process of its own.")
]
InProcess = Annotated[bool, typer.Option("--in-process", help="Open all engines in one process, for debugging.")]
PANEL = "Instead of timing engines in turns"
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        rich_help_panel=PANEL,
        help="Find the best threads, streams and batch size on this machine. Takes minutes.",
    ),
]
Roofline = Annotated[
    bool,
    typer.Option(
        "--roofline",
        rich_help_panel=PANEL,
        help="Measure this machine's peak rates, and engines and their layers beside them.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        callback=plot_file,
        rich_help_panel=PANEL,
        help="With --roofline or a load: draw it into this .png, .svg or .pdf file.",
    ),
]
Predict = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="IMAGE",
        rich_help_panel=PANEL,
        help="Time predict of this image, by stage, against its engine; repeatable.",
    ),
]
PredictFormat = Annotated[str, typer.Option(rich_help_panel=PANEL, help="With --predict: its --format.")]
Timeline = Annotated[
    Path | None,
    typer.Option(
        metavar="SVG", rich_help_panel=PANEL, help="With --predict: draw when each stage worked.", callback=output
    ),
]
