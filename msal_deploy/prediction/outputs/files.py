"""The files of each output format."""

# Format -> the files it consists of, in the slide's folder.
FILES = {
    "geojson": ("nuclei.geojson",),
    "geojson.gz": ("nuclei.geojson.gz",),
    "parquet": ("nuclei.parquet",),
    "ome-zarr": ("nuclei.ome.zarr",),
    "tiff": ("labels.tiff",),
    "png": ("overlay.png", "density.png"),
}
