"""The files of each output format, and what writes them."""

# Format -> the files it consists of, in the slide's folder.
FILES = {
    "geojson": ("nuclei.geojson",),
    "geojson.gz": ("nuclei.geojson.gz",),
    "parquet": ("nuclei.parquet",),
    "ome-zarr": ("nuclei.ome.zarr",),
    "tiff": ("labels.tiff",),
    "png": ("overlay.png", "density.png"),
}

# Format -> the optional package that writes it.
NEEDS = {"parquet": "pyarrow", "ome-zarr": "zarr"}
