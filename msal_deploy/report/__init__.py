"""Report: one self-contained HTML page from the JSON reports of the other stages.

==================  ====================================================================================
`write_report`      the page: verdict, parity, latency, precision, training, overlays, environment
`accuracy_latency`  the accuracy and latency of each engine, and which are Pareto-optimal
`overlays`          pictures of a patch with the true and the predicted masks
`plots`             the figures, as SVG that follows the light or dark colour scheme of the page
`formatting`        number formats
==================  ====================================================================================
"""

from msal_deploy.report.overlays import Overlay
from msal_deploy.report.run import write_report
from msal_deploy.report.tradeoff import accuracy_latency, accuracy_latency_table, pareto_front

__all__ = ["Overlay", "accuracy_latency", "accuracy_latency_table", "pareto_front", "write_report"]
