"""Report: one self-contained HTML page from the JSON that the other stages write.

==============  ======================================================================
`write_report`  the page: verdict, parity, latency, training, overlays, environment
`overlays`      where a prediction and the truth disagree, as pictures
`plots`         the three figures, as SVG that follows the page's light or dark colours
==============  ======================================================================
"""

from msal_deploy.report.overlays import Overlay
from msal_deploy.report.page import write_report

__all__ = ["Overlay", "write_report"]
