"""``msal-deploy view``."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that predict --out wrote.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Show slides with the nuclei that predict found, in the browser, until Ctrl-C.

    The page can be reached from this machine only and needs no network.

    Example: msal-deploy view nuclei
    """
    import webbrowser

    from msal_deploy.prediction.view import Gallery, make_server

    with make_server(Gallery(folder), port) as server:
        typer.echo(f"Viewer: {server.url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("\nViewer ended.")
