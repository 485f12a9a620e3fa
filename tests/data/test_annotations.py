from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from msal_deploy.data import rasterise, read_xml, write_xml
from msal_deploy.errors import BadInput


def region(*vertices: tuple[object, object], number: int = 1) -> str:
    inside = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in vertices)
    return f'<Region Id="{number}"><Attributes/><Vertices>{inside}</Vertices></Region>'


def xml(path: Path, *regions: str, root: str = "<Annotations>") -> Path:
    path.write_text(f"{root}<Annotation><Regions>{''.join(regions)}</Regions></Annotation></Annotations>")
    return path


def drawn(path: Path, shape: tuple[int, int] = (8, 10)) -> NDArray[np.int32]:
    return rasterise(read_xml(path).polygons, shape)


def test_rasterise_square_at_pixel_centres(tmp_path: Path) -> None:
    # Corners at the centres of the pixels 3…6 across and 2…4 down, counted from 1: 4 × 3 pixels from row 1, column 2.
    square = region((3, 2), (6, 2), (6, 4), (3, 4))
    expected = np.zeros((8, 10), dtype=np.int32)
    expected[1:4, 2:6] = 1
    np.testing.assert_array_equal(drawn(xml(tmp_path / "a.xml", square)), expected)


def test_rasterise_square_between_pixel_centres(tmp_path: Path) -> None:
    # Edges halfway between centres (in 0-based terms x from 1.5 to 3.5): columns 2 and 3, rows 2 and 3.
    square = region((2.5, 2.5), (4.5, 2.5), (4.5, 4.5), (2.5, 4.5))
    expected = np.zeros((8, 10), dtype=np.int32)
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(drawn(xml(tmp_path / "a.xml", square)), expected)


def test_rasterise_cuts_off_what_is_outside_the_image(tmp_path: Path) -> None:
    path = xml(
        tmp_path / "a.xml", region((-5, -5), (3, -5), (3, 2), (-5, 2)), region((100, 100), (110, 100), (110, 110))
    )
    expected = np.zeros((8, 10), dtype=np.int32)
    expected[:2, :3] = 1
    np.testing.assert_array_equal(drawn(path), expected)
    assert read_xml(path).outside((8, 10)) == 6


def test_vertices_on_the_outer_pixels_count_as_inside(tmp_path: Path) -> None:
    path = xml(tmp_path / "a.xml", region((1, 1), (10, 1), (10, 8), (1, 8)))
    assert read_xml(path).outside((8, 10)) == 0
    assert drawn(path).all()


def test_later_regions_cover_earlier_ones_regardless_of_id(tmp_path: Path) -> None:
    first = region((1, 1), (6, 1), (6, 6), (1, 6), number=97)
    second = region((4, 4), (8, 4), (8, 8), (4, 8), number=5)
    instances = drawn(xml(tmp_path / "a.xml", first, second))
    assert instances[0, 0] == 1
    assert instances[3, 3] == instances[5, 5] == 2


def test_degenerate_regions_are_skipped_and_counted(tmp_path: Path) -> None:
    good = region((1, 1), (4, 1), (4, 4))
    path = xml(tmp_path / "a.xml", region(), region((1, 1), (2, 2)), region((1, 1), (2, 2), (1, 1)), good)
    annotation = read_xml(path)
    assert [annotation.regions, annotation.degenerate, len(annotation.polygons)] == [4, 3, 1]
    assert drawn(path).max() == 1


@pytest.mark.parametrize(
    ("root", "microns"),
    [
        ('<Annotations MicronsPerPixel="0.2527">', 0.2527),
        ("<Annotations>", None),
        ('<Annotations MicronsPerPixel="">', None),
        ('<Annotations MicronsPerPixel="0">', None),
        ('<Annotations MicronsPerPixel="nan">', None),
    ],
)
def test_microns_per_pixel(root: str, microns: float | None, tmp_path: Path) -> None:
    path = xml(tmp_path / "a.xml", region((1, 1), (4, 1), (4, 4)), root=root)
    assert read_xml(path).microns_per_pixel == microns


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><Annotations>&c;</Annotations>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><Annotations>&b;</Annotations>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid XML"),
        ("MoNuSeg", "not valid XML"),
        ("<Annotations><Annotation>", "not valid XML"),
        ('<?xml version="1.0" encoding="klingon"?><Annotations/>', "not valid XML"),
        ("<annotation><object/></annotation>", "has no regions"),
        (BOMB, "entities"),
        (EXTERNAL, "entities"),
        (f"<A>{region((1, 1), (2, 2))}{region()}</A>", "all 2 regions"),
        (f"<A>{region((1, 1), ('x', 2), (3, 3))}</A>", "region 1: a vertex is not a number"),
        (f"<A>{region((1, 1), ('inf', 2), (3, 3))}</A>", "not finite"),
        ("<A><Region Id='7'><Vertex X='1'/></Region></A>", "region 7: a vertex is not a number"),
    ],
)
def test_read_xml_rejects_bad_files_by_name(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        read_xml(path)
    assert "bad.xml" in str(caught.value)


def test_read_xml_rejects_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"\xff\xfe\x00\xd8\x80")
    for name, words in (("a.xml", "not valid XML"), ("none.xml", "does not exist")):
        with pytest.raises(BadInput, match=words):
            read_xml(tmp_path / name)


sixteenths = st.integers(-50 * 16, 150 * 16).map(lambda value: value / 16)
vertices = st.lists(st.tuples(sixteenths, sixteenths), min_size=3, max_size=12, unique=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(vertices, min_size=1, max_size=4))
def test_write_xml_and_read_xml_round_trip(tmp_path_factory: pytest.TempPathFactory, shapes: list) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    polygons = [np.array(shape) for shape in shapes]
    write_xml(path, polygons, microns_per_pixel=0.25)
    annotation = read_xml(path)
    assert annotation.microns_per_pixel == 0.25
    assert annotation.degenerate == 0
    for polygon, again in zip(polygons, annotation.polygons, strict=True):
        np.testing.assert_array_equal(polygon, again)


anywhere = st.floats(-1e9, 1e9) | sixteenths


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(anywhere, anywhere), min_size=3, max_size=8), st.integers(1, 40), st.integers(1, 40))
def test_rasterise_accepts_any_polygon(shape: list[tuple[float, float]], height: int, width: int) -> None:
    instances = rasterise([np.array(shape)], (height, width))
    assert instances.shape == (height, width)
    assert set(np.unique(instances)) <= {0, 1}


@settings(max_examples=50, deadline=None)
@given(vertices, st.integers(-5, 5), st.integers(-5, 5))
def test_rasterise_is_translation_invariant(shape: list[tuple[float, float]], x: int, y: int) -> None:
    canvas, polygon = (220, 220), np.array(shape) + 60
    moved = rasterise([np.add(polygon, (x, y))], canvas)
    np.testing.assert_array_equal(np.roll(rasterise([polygon], canvas), (y, x), axis=(0, 1)), moved)


# --- files that are not what they seem -------------------------------------------------------------------------------

SQUARE = region((1, 1), (4, 1), (4, 4), (1, 4))
WHOLE = f"<Annotations><Annotation><Regions>{SQUARE}</Regions></Annotation></Annotations>"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + WHOLE.encode(),
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\r\n' + WHOLE.replace("><", ">\r\n<").encode(),
        WHOLE.encode("utf-16"),
        ('<?xml version="1.0" encoding="utf-16"?>' + WHOLE).encode("utf-16"),
        ('<?xml version="1.0" encoding="latin-1"?>' + WHOLE.replace('Id="1"', 'Id="é"')).encode("latin-1"),
    ],
)
def test_byte_order_marks_line_ends_and_encodings(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    assert drawn(tmp_path / "a.xml").sum() == 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE.replace('Id="1"', 'Id="1" NegativeROA="1"'), "region 1 is negative .NegativeROA."),
        (WHOLE.replace('Id="1"', 'Id="1" Type="1"'), "region 1 is a rectangle, not the outline of a nucleus"),
        (WHOLE.replace('Id="1"', 'Id="1" Type="2"'), "an ellipse"),
        (WHOLE.replace('Id="1"', 'Id="1" Type="4"'), "a ruler"),
        (WHOLE.replace('"4"', '"1e300"'), "above 1e.09 px"),
        (WHOLE.replace('"4"', '"-1e10"'), "above 1e.09 px"),
        (WHOLE.replace('"4"', '"4,5"'), "not a number"),
        ("<ASAP_Annotations><Annotations/></ASAP_Annotations>", "its root is 'ASAP_Annotations', not 'Annotations'"),
        (f"<{'a' * 5000}/>", "its root is 'a{40}', not"),
        (f"{'<a>' * 100_000}{'</a>' * 100_000}", "has no regions|not valid XML"),
        (f"<Annotations>{'<Region/>' * 100_001}</Annotations>", "100,001 regions; use one XML of at most 100,000"),
        (f"<Annotations>{'<Region>' * 20_000}{'</Region>' * 20_000}</Annotations>", "all 20000 regions"),
    ],
)
def test_regions_that_would_be_misread(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        read_xml(tmp_path / "a.xml")
    assert len(str(caught.value)) < 400


def test_an_annotation_without_regions_is_an_image_without_nuclei(tmp_path: Path) -> None:
    annotation = read_xml(xml(tmp_path / "a.xml"))
    assert [annotation.regions, annotation.outside((8, 10)), annotation.outside_share((8, 10))] == [0, 0, 0]
    assert not drawn(tmp_path / "a.xml").any()


def test_the_regions_of_all_layers_are_read(tmp_path: Path) -> None:
    layers = "".join(f'<Annotation Name="{name}"><Regions>{SQUARE}</Regions></Annotation>' for name in "abc")
    (tmp_path / "a.xml").write_text(f"<Annotations>{layers}</Annotations>")
    assert read_xml(tmp_path / "a.xml").regions == 3


def test_a_huge_file_is_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("wb") as stream:
        stream.truncate(20_000_001)
    with pytest.raises(BadInput, match="has more than 20 MB"):
        read_xml(tmp_path / "a.xml")
