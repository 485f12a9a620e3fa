"""Report: one self-contained HTML page from the JSON reports of the other stages.

==================  ====================================================================================
`Report`            all that a page shows
`write_report`      writes the page
`save_report`       writes a folder with the page, its JSON and its pictures
`rebuild_report`    writes the page of such a folder again
`GalleryPatch`      pictures of a patch with the masks of truth, reference and engine
`make_gallery`      those of the patches that are worth showing
`accuracy_latency`  the accuracy and latency of each engine, and which are Pareto-optimal
`verdict`           the verdict on each engine in words
`evidence`          parity, nuclei, checks, differences
`plots`             the figures, as SVG that follows the light or dark colour scheme of the page
`formatting`        number formats
==================  ====================================================================================
"""

from msal_deploy.report.folder import load_report, rebuild_report, save_report
from msal_deploy.report.gallery import Choice, GalleryPatch, choose_patches, make_gallery
from msal_deploy.report.inputs import Report
from msal_deploy.report.run import write_report
from msal_deploy.report.tradeoff import accuracy_latency, accuracy_latency_table, pareto_front

__all__ = [
    "Choice",
    "GalleryPatch",
    "Report",
    "accuracy_latency",
    "accuracy_latency_table",
    "choose_patches",
    "load_report",
    "make_gallery",
    "pareto_front",
    "rebuild_report",
    "save_report",
    "write_report",
]
