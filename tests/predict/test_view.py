"""The viewer's server: right pixels and numbers, and nothing for anybody else."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from view_fixture import MICRONS, SHAPE, SQUARES, Memory, pixels, write

from msal_deploy.errors import BadInput
from msal_deploy.prediction.nuclei import FEATURES
from msal_deploy.prediction.record import Region, SlideFolder
from msal_deploy.prediction.view import Gallery, make_server
from msal_deploy.prediction.view.server import Server
from msal_deploy.prediction.view.survey import Survey


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SlideFolder:
    return write(tmp_path_factory.mktemp("out") / "squares")


@pytest.fixture(scope="module")
def server(folder: SlideFolder) -> Iterator[Server]:
    with make_server(Gallery(folder.path.parent, lambda record: Memory())) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Send a path as it is: urllib would tidy it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers


def load(server: Server, path: str):
    status, body, _ = ask(server, path)
    assert status == 200, (path, body)
    return json.loads(body)


def picture(body: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(int)


def error(tile: np.ndarray, expected: np.ndarray) -> float:
    assert tile.shape == expected.shape
    return float(np.abs(tile - expected).mean())


# 1100 pixels need levels 0 to 11: 2^11 is the first power of two that is not below 1100
@pytest.mark.parametrize(("column", "row"), [(0, 0), (1, 0), (2, 1)])
def test_a_tile_has_the_pixels_of_the_slide(server: Server, column: int, row: int) -> None:
    assert load(server, "/0/info.json")["levels"] == 12
    expected = pixels()[row * 512 : row * 512 + 512, column * 512 : column * 512 + 512]
    assert error(picture(ask(server, f"/0/tiles/11/{column}_{row}.jpg")[1]), expected) < 2
    assert error(expected[::-1], expected) > 2  # the slide is no constant


@pytest.mark.parametrize(("level", "size"), [(10, (350, 550)), (9, (175, 275)), (8, (88, 138)), (7, (44, 69))])
def test_coarser_levels_show_the_same_image(server: Server, level: int, size: tuple[int, int]) -> None:
    expected = cv2.resize(pixels(), size[::-1], interpolation=cv2.INTER_AREA)[:, :512]
    assert error(picture(ask(server, f"/0/tiles/{level}/0_0.jpg")[1]), expected) < 3
    assert ask(server, f"/0/tiles/{level}/2_0.jpg")[0] == 404


def test_the_coarsest_level_has_one_pixel(server: Server) -> None:
    assert picture(ask(server, "/0/tiles/0/0_0.jpg")[1]).shape == (1, 1, 3)


def test_without_the_file_the_small_pictures_are_shown_and_the_page_says_so(folder: SlideFolder) -> None:
    gallery = Gallery(folder.path)  # squares.svs does not exist
    tile = gallery.answer("/0/tiles/11/0_0.jpg")
    info = json.loads(gallery.answer("/0/info.json").body)
    assert error(picture(tile.body), pixels()[:512, :512]) < 6
    assert "1/8 of the resolution" in info["notes"][0]


def test_another_file_of_that_name_is_not_shown(folder: SlideFolder) -> None:
    other = Memory()
    other.shape = (SHAPE[0] + 1, SHAPE[1])
    gallery = Gallery(folder.path, lambda record: other)
    assert "is another image now" in json.loads(gallery.answer("/0/info.json").body)["notes"][0]
    assert other.closed


def test_where_no_region_has_a_file_the_overview_comes_from_the_slide(tmp_path: Path) -> None:
    gallery = Gallery(write(tmp_path / "squares", skip=((0, 0),)).path, lambda record: Memory())
    expected = cv2.resize(pixels(), (138, 88), interpolation=cv2.INTER_AREA)
    assert error(picture(gallery.answer("/0/tiles/8/0_0.jpg").body), expected) < 3
    assert gallery.answer("/0/regions/0-0.json") is None


def test_a_region_is_sent_as_it_was_kept(server: Server, folder: SlideFolder) -> None:
    sent, kept = load(server, "/0/regions/0-0.json"), Region.load(folder.region_path(0, 0))
    assert sent["core"] == [0, 0, 512, 512] and sent["ends"] == kept.nuclei.ends.tolist() and len(sent["ends"]) == 2
    assert sent["features"] == {name: kept.nuclei.features[name].tolist() for name in FEATURES}
    np.testing.assert_allclose(np.reshape(sent["points"], (-1, 2)), kept.nuclei.points, atol=0.005)


def test_counts_and_areas_of_a_window(server: Server) -> None:
    everything = load(server, "/0/within/0-0-9999-9999.json")
    mm2 = 700 * 1100 * MICRONS**2 / 1e6
    assert everything["count"] == len(SQUARES) and everything["mm2"] == pytest.approx(mm2)
    assert everything["density"] == pytest.approx(5 / mm2)
    # areas in µm²: 20² / 16 = 25, 40² / 16 = 100, 32² / 16 = 64, 24² / 16 = 36 twice; bins of 10
    assert {at: count for at, count in enumerate(everything["histogram"]) if count} == {2: 1, 3: 2, 6: 1, 10: 1}
    assert everything["median_area"] == pytest.approx(36)
    corner = load(server, "/0/within/50-70-50-50.json")
    assert corner["count"] == 1 and corner["median_area"] == pytest.approx(25)
    assert load(server, "/0/within/5000-0-10-10.json")["density"] == 0


def test_density_of_cells_by_hand() -> None:
    # cells of 50 µm = 200 px: two rows, the second of 100 px; two nuclei in the first cell, one in the last
    columns = (np.array(values, np.float32) for values in ([10, 20, 250], [10, 20, 250], [1, 1, 1]))
    density = Survey({}, *columns, 0.25, (300, 400)).density()
    assert density == pytest.approx(np.array([[2 / 0.0025, 0], [0, 1 / 0.00125]]))


def test_the_heat_map_is_transparent_where_there_is_nothing(server: Server) -> None:
    status, body, headers = ask(server, "/0/density.png")
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert status == 200 and headers["Content-Type"] == "image/png" and image.shape == (4, 6, 4)
    assert (image[..., 3] > 0).sum() == len(SQUARES)


@pytest.mark.parametrize(
    "path",
    [
        "/1/info.json",
        "/0/tiles/12/0_0.jpg",
        "/0/tiles/11/3_0.jpg",
        "/0/tiles/11/-1_0.jpg",
        "/0/regions/9-9.json",
        "/x",
        "/../gallery.py",
        "/static/../server.py",
        "/%2e%2e/server.py",
        "//etc/passwd",
        "/0/regions/..%2f0-0.json",
        "/0/regions/run.json",
        "/view.js/",
        "/openseadragon-LICENSE.txt",
        "/0/info.json%C2%B9",
        "/0/info.json%0A",
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.example.org"])
def test_other_host_names_are_refused(server: Server, host: str) -> None:
    assert ask(server, "/", Host=host)[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_only_get_is_answered(server: Server, method: str) -> None:
    status, _, headers = ask(server, "/0/info.json", method)
    assert status == 405 and headers["Allow"] == "GET"


def test_every_answer_forbids_other_sources(server: Server) -> None:
    for path in ("/", "/0/info.json", "/nothing"):
        assert ask(server, path)[2]["Content-Security-Policy"].startswith("default-src 'self'")


def test_it_listens_on_this_machine_only_and_says_when_the_port_is_taken(server: Server, folder: SlideFolder) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(BadInput, match=f"Cannot listen on port {server.server_port} .*--port"):
        make_server(Gallery(folder.path), server.server_port)


def test_a_damaged_region_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "squares")
    folder.region_path(0, 1).write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"000-001\.npz is damaged"):
        Gallery(folder.path).answer("/0/info.json")


def test_the_command_prints_the_address_and_ends_with_ctrl_c(folder: SlideFolder) -> None:
    command = [sys.executable, "-m", "msal_deploy", "view", str(folder.path), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    url = re.fullmatch(r"Viewer: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)[1]
    with urllib.request.urlopen(f"{url}slides.json") as answer:
        assert json.load(answer) == [{"name": "squares", "nuclei": len(SQUARES)}]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out.strip(), err) == (0, "Viewer ended.", "")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="contains no result of predict"):
        Gallery(tmp_path)
