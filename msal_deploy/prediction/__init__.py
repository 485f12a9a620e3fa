"""Predict: images and whole slides -> nuclei.

`run`       `predict`: one image to `Nuclei`; `predict_all`: many, with outputs on disk
`readers`   `open_slide`: any format to a `Slide`
`tissue`    what is worth computing
`grid`      tiles and regions
`steps`     the two steps of a region: tiles through the engine, then nuclei
`pipeline`  the steps in one process, overlapping; `cluster`: on Dask workers
`nuclei`    `Nuclei`: outlines and features
`record`    what is kept on disk, and resumed from
`outputs`   GeoJSON, GeoParquet, OME-Zarr, TIFF, pictures, the page
`view`      the local viewer
"""

from msal_deploy.prediction.nuclei import Nuclei
from msal_deploy.prediction.report import PredictReport
from msal_deploy.prediction.run import predict, predict_all

__all__ = ["Nuclei", "PredictReport", "predict", "predict_all"]
