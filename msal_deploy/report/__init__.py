"""Report: one self-contained HTML page from the JSON that the other stages write.

==================  ==================================================================================
`write_report`      the page: verdict, parity, latency, precision, training, overlays, environment
`accuracy_latency`  which engines are worth choosing: the rows, and `accuracy_latency_table` of them
`overlays`          where a prediction and the truth disagree, as pictures
`plots`             the figures, as SVG that follows the page's light or dark colours
==================  ==================================================================================
"""

from msal_deploy.report.overlays import Overlay
from msal_deploy.report.run import write_report
from msal_deploy.report.tradeoff import accuracy_latency, accuracy_latency_table, pareto_front

__all__ = ["Overlay", "accuracy_latency", "accuracy_latency_table", "pareto_front", "write_report"]
