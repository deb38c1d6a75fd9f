"""The report is one file that shows what it was given."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.rendering.chart import Chart, Series, chart_svg
from zoo.rendering.report import Picture, ReportSection, Table, encode_picture, write_report

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))))


def test_everything_is_inside_the_file(tmp_path: Path) -> None:
    section = ReportSection(
        "Views & more",
        text="a < b",
        charts=[Chart("loss", [Series("train", [0, 1, 2], [3.0, 2.0, 1.0])])],
        tables=[Table(["name", "value"], [["<script>", 12345], ["b", 0.123456789], ["c", None]])],
        pictures=[Picture(torch.rand(4, 6, 3), "view 1")],
    )
    write_report(tmp_path / "report.html", title="Toy", sections=[section], details={"Configuration": "seed: 0"})
    text = (tmp_path / "report.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "12,345" in text
    assert "0.12346" in text
    assert "seed: 0" in text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)


def test_pictures_keep_their_pixels() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(decoded(encode_picture(image)), image)
    assert np.array_equal(decoded(encode_picture(torch.from_numpy(image) / 255)), image)
    assert decoded(encode_picture(np.zeros((4, 5, 1)))).shape == (4, 5)
    assert decoded(encode_picture(np.array([[np.nan, np.inf, -1.0]]))).tolist() == [[0, 255, 0]]


def test_large_pictures_become_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    address = encode_picture(noise)
    assert address.startswith("data:image/jpeg")
    assert decoded(address).shape == noise.shape


@pytest.mark.parametrize("shape", [(3,), (4, 5, 2), (0, 5, 3), (1, 4, 5, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        encode_picture(np.zeros(shape))


@given(st.lists(st.tuples(FINITE, FINITE), max_size=20), st.booleans())
def test_any_line_stays_inside_the_frame(points: list[tuple[float, float]], log_y: bool) -> None:
    chart = Chart("t", [Series("s", [x for x, _ in points], [y for _, y in points])], log_y=log_y)
    root = ElementTree.fromstring(chart_svg(chart))
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 460
            assert 0 <= y <= 260


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = Chart("t", [Series("s", [0, 1, 2, 3], [1.0, float("nan"), float("inf"), 2.0])])
    root = ElementTree.fromstring(chart_svg(chart))
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(line.attrib["points"].split()) == 2
    assert "no values" in chart_svg(Chart("t", [Series("s", [], [])]))


def test_long_lines_are_thinned_and_keep_their_end() -> None:
    x = list(range(10_001))
    root = ElementTree.fromstring(chart_svg(Chart("t", [Series("s", x, x)])))
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    points = line.attrib["points"].split()
    assert len(points) <= 602
    assert points[-1].startswith("448.0,")
