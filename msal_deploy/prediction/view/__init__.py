"""View: a local page with deep zoom of a slide, the outlines of its nuclei and their density.

`Gallery` answers paths with bytes and knows nothing about HTTP; `server` adds the loopback server around it.
"""

from msal_deploy.prediction.view.gallery import Gallery
from msal_deploy.prediction.view.server import make_server

__all__ = ["Gallery", "make_server"]
