"""The charts of the page: bars have the lengths that their numbers say."""

import re
from base64 import b64decode
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from msal_deploy.prediction.outputs.charts import (
    EMPTY,
    LEFT,
    RIGHT,
    WIDTH,
    area_histogram,
    density_chart,
    ticks,
    timeline,
)

SVG = "{http://www.w3.org/2000/svg}"


def boxes(chart: str, path: int) -> list[list[float]]:
    """Return x, y, width and height of each bar of one path."""
    drawn = [one for one in ElementTree.fromstring(chart).iter(f"{SVG}path") if one.get("fill")][path].get("d")
    found = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z", drawn)
    return [[float(number) for number in one] for one in found]


def texts(chart: str) -> list[str]:
    return [one.text for one in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def test_stages_have_a_row_each_and_their_bars_the_length_of_their_time():
    spans = [("read", "0-0", 0.0, 1.0), ("infer", "0-0", 1.0, 4.0), ("infer", "0-1", 3.5, 5.0), ("read", "1-0", 8, 10)]
    chart = timeline(spans)
    second = (WIDTH - LEFT - RIGHT) / 10
    assert np.array(boxes(chart, 0))[:, [0, 2]] == pytest.approx(
        np.array([[LEFT, second], [LEFT + 8 * second, 2 * second]]), abs=0.06
    )
    # What overlaps is one bar: from 1 to 5 seconds.
    assert boxes(chart, 1)[0][0] == pytest.approx(LEFT + second, abs=0.06)
    assert boxes(chart, 1)[0][2] == pytest.approx(4 * second, abs=0.06)
    assert len(boxes(chart, 1)) == 1
    assert boxes(chart, 0)[0][1] < boxes(chart, 1)[0][1]
    assert texts(chart)[:2] == ["read", "infer"]


def test_a_histogram_counts_every_area_but_the_largest():
    # 199 nuclei of 10 µm² and one of 1000: the 99.5% quantile is between them, and the axis ends 5% beyond it.
    chart = area_histogram(np.array([10.0] * 199 + [1000.0]))
    tall = [box for box in boxes(chart, 0) if box[3] > 0]
    assert len(tall) == 1 and tall[0][3] == 280 - 44 - 12  # the highest bar fills the chart
    assert "median 10.0 µm²" in texts(chart)
    even = area_histogram(np.array([1.0, 1.0, 9.0]))
    assert sorted(box[3] for box in boxes(even, 0) if box[3] > 0) == [112.0, 224.0]


def test_a_density_has_the_colours_of_its_cells_and_grey_without_a_region():
    values = np.array([[0.0, 500.0], [np.nan, 1000.0]])
    chart = density_chart(values, (0.1, 0.1), 0.05)
    first = next(ElementTree.fromstring(chart).iter(f"{SVG}image"))
    pixels = cv2.imdecode(np.frombuffer(b64decode(first.get("href").split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    magma = cv2.applyColorMap(np.array([[0, 128, 255]], np.uint8), cv2.COLORMAP_MAGMA)[0]
    assert pixels[0, 0].tolist() == magma[0].tolist() and pixels[1, 1].tolist() == magma[2].tolist()
    assert pixels[0, 1].tolist() == magma[1].tolist()  # 500 of 1000 is 127.5 of 255, rounded to even
    assert pixels[1, 0].tolist() == [EMPTY] * 3
    assert "1,000" in texts(chart) and "mm; nuclei per mm² in cells of 50 µm" in texts(chart)
    assert "nan" not in density_chart(np.full((1, 1), np.nan), (0.01, 0.01), 0.05)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (7.3, [0, 2, 4, 6]),
        (6, [0, 1, 2, 3, 4, 5, 6]),
        (0.25, [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        (9000, [0, 2000, 4000, 6000, 8000]),
    ],
)
def test_ticks_are_round_and_few(end, expected):
    assert ticks(end) == expected
