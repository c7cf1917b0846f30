"""Colours of plots stay apart for readers who see fewer of them."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from ml.evaluation.plots import COLOURS, SERIES

# What linear RGB becomes for who lacks red, green or blue cones: Machado, Oliveira, Fernandes, "A physiologically-based
# model for simulation of color vision deficiency" (2009).
SEEN = {
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, lacking: str) -> np.ndarray:
    """A colour as it is seen, in CIELAB (D65), where a distance of 10 is plain to see."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    x, y, z = np.cbrt(TO_XYZ @ np.clip(np.array(SEEN[lacking]) @ linear, 0, 1) / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("lacking", SEEN)
@pytest.mark.parametrize("palette", [COLOURS.values(), [colour for colour, _ in SERIES]], ids=["models", "series"])
def test_colours_of_a_plot_stay_apart_for_colour_blind_readers_and_on_paper(palette: list[str], lacking: str) -> None:
    seen = [lab(colour, lacking) for colour in [*palette, "#FFFFFF"]]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 10


HUES_TURNED = [[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]]
"""What ``hue-rotate(180deg)`` does to a colour: Filter Effects Module Level 1 of the W3C."""


def in_the_dark(colour: str) -> str:
    """A colour as pages show it on a dark screen: ``invert(1) hue-rotate(180deg)``."""
    return to_hex(np.clip(np.array(HUES_TURNED) @ (1 - np.array(to_rgb(colour))), 0, 1).tolist())


@pytest.mark.parametrize("lacking", SEEN)
@pytest.mark.parametrize("palette", [COLOURS.values(), [colour for colour, _ in SERIES]], ids=["models", "series"])
def test_they_stay_apart_where_a_page_turns_a_plot_dark(palette: list[str], lacking: str) -> None:
    seen = [lab(in_the_dark(colour), lacking) for colour in [*palette, "#FFFFFF"]]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 10


def test_red_and_green_as_matplotlib_has_them_would_be_noticed() -> None:
    assert np.linalg.norm(lab("#2ca02c", "green") - lab("#d62728", "green")) < 20
