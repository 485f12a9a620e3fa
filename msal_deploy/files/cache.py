"""What is kept from one command to the next, for this user only."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return the user's cache: ``$XDG_CACHE_HOME/msal-deploy``, or ``~/.cache/msal-deploy``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "msal-deploy"
