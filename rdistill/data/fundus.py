"""Draws a fundus photograph with the exact mask of its optic disc.

A model must distinguish the bright optic disc, which vessels cross, from exudates, atrophy, cotton wool spots and lens
flare. These may be as bright and as large, so brightness is not enough to find the disc. Lengths are in half image
widths; the origin is the image's centre, and y points down. Colours are float32 RGB from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SPLITS = ("train", "val")

_Array = npt.NDArray[Any]
_Colour = tuple[float, float, float]
_Point = tuple[float, float]


def draw_fundus(*, seed: int, split: str, index: int, size: int, mask_error: float = 0.0) -> tuple[_Array, _Array]:
    """Draws a photograph, ``(size, size, 3)`` uint8 RGB, and its mask, ``(size, size)`` uint8 in {0, 1}.

    With ``mask_error`` E the mask is inexact: moved by up to E radii of the disc in any direction, and larger or
    smaller by a factor of up to 1 + E. The photograph does not depend on it.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)))
    eye = _random_eye(rng)
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)  # pixel centres
    x, y = np.meshgrid(axis, axis)
    disc_radius = _ellipse(x, y, eye.disc, eye.disc_radii, eye.disc_tilt)
    masked = disc_radius
    if mask_error:
        # A second generator, because the photograph must not depend on the mask's error.
        hurry = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index, 1)))
        masked = _hurried_radius(hurry, eye, x, y, mask_error)
    mask = (masked <= 1) & (np.hypot(x, y) <= eye.retina_radius)

    image = _background(rng, eye, x, y)
    _add_patches(rng, eye, x, y, image)
    _add_disc(rng, eye, x, y, image, disc_radius)
    _add_vessels(rng, eye, image)
    _add_spots(rng, eye, image)
    image = _photograph(rng, eye, x, y, image)
    return (image * 255 + 0.5).astype(np.uint8), mask.astype(np.uint8)


# ---------------------------------------------------------------- anatomy


@dataclass(frozen=True)
class _Eye:
    """Positions of the anatomy, in half image widths."""

    retina_radius: float
    temporal: int  # +1: the macula lies right of the disc, -1: left
    disc: _Point
    disc_radii: _Point
    disc_tilt: float  # radians
    macula: _Point


def _random_eye(rng: np.random.Generator) -> _Eye:
    retina_radius = rng.uniform(0.93, 1.05)
    temporal = int(rng.choice([-1, 1]))
    view = rng.choice(["macula", "disc", "rim"], p=[0.70, 0.22, 0.08])
    # Share of the image's pixels. A disc that the rim cuts is drawn larger, so that about 1 % or more remains.
    share = math.exp(rng.uniform(math.log(0.018 if view == "rim" else 0.012), math.log(0.038)))
    aspect = rng.uniform(0.74, 1.0)
    # math instead of numpy: a float64 scalar of numpy would turn the float32 images into float64.
    radius_x, radius_y = math.sqrt(4 * share / math.pi * aspect), math.sqrt(4 * share / math.pi / aspect)
    limit = min(retina_radius, 1.0)
    if view == "rim":
        distance, angle = limit - rng.uniform(0.1, 0.6) * radius_x, rng.uniform(-0.5, 0.5)
    elif view == "disc":
        distance, angle = rng.uniform(0.0, 0.3), rng.uniform(-math.pi, math.pi)
    else:
        distance, angle = rng.uniform(0.5, max(0.55, limit - radius_y - 0.05)), rng.uniform(-0.35, 0.35)
    distance = distance if view == "rim" else min(distance, limit - radius_y - 0.03)
    disc = (-temporal * distance * math.cos(angle), distance * math.sin(angle))
    macula = (disc[0] + temporal * rng.uniform(0.6, 0.8), disc[1] + rng.uniform(-0.06, 0.16))
    return _Eye(retina_radius, temporal, disc, (radius_x, radius_y), rng.uniform(-0.3, 0.3), macula)


def _hurried_radius(rng: np.random.Generator, eye: _Eye, x: _Array, y: _Array, error: float) -> _Array:
    """Distance from the centre of an inexactly outlined disc, with 1 on the outline."""
    shift, angle = error * math.sqrt(rng.uniform()), rng.uniform(-math.pi, math.pi)  # uniform over a circle
    growth = (1 + error) ** rng.uniform(-1, 1)
    radius_x, radius_y = eye.disc_radii
    centre = (eye.disc[0] + shift * radius_x * math.cos(angle), eye.disc[1] + shift * radius_y * math.sin(angle))
    return _ellipse(x, y, centre, (growth * radius_x, growth * radius_y), eye.disc_tilt)


def _background(rng: np.random.Generator, eye: _Eye, x: _Array, y: _Array) -> _Array:
    """Draws the pigmented retina with choroidal vessels, shiny fibres around the disc and a dark macula."""
    size = len(x)
    # Colours that were measured on photographs: tan, orange, red, brown.
    tones = np.array([[0.60, 0.38, 0.23], [0.74, 0.31, 0.12], [0.66, 0.18, 0.05], [0.42, 0.22, 0.12]])
    tone = rng.dirichlet([0.5] * 4) @ tones
    image: _Array = np.empty((size, size, 3), np.float32)
    image[:] = tone
    mottle = _noise(rng, 7, size) + 0.6 * _noise(rng, 19, size) + 0.5 * _noise(rng, 60, size)
    image *= 1 + (rng.uniform(0.02, 0.08) * mottle)[..., None] * _rgb(0.7, 1.2, 1.3)

    # Choroidal vessels are zero crossings of noise in polar coordinates, so that they lead away from the disc.
    dx, dy = x - eye.disc[0], y - eye.disc[1]
    bend = 0.12 * _noise(rng, 9, size)
    theta, radius = np.arctan2(dy, dx) + bend, np.hypot(dx, dy) + 0.3 * bend
    streams = _polar_noise(rng, theta, radius, (30, 7)) + 0.7 * _noise(rng, 26, size)
    ridge = np.exp(-((streams / 0.3) ** 2))
    visibility = rng.beta(0.8, 1.2) * np.clip(0.6 + 0.5 * _noise(rng, 5, size), 0.1, 1.2)
    _blend(image, (tone[0] * 1.1, tone[1] * 0.55, tone[2] * 0.5), 0.8 * visibility * ridge)
    image *= 1 - (0.35 * visibility * np.clip(0.6 * np.abs(streams) - 0.2, 0, 1))[..., None]

    fibres = 0.6 + 0.5 * _polar_noise(rng, theta, radius, (60, 6))
    sheen = fibres * np.exp(-((radius / rng.uniform(0.3, 0.6)) ** 2))
    _blend(image, (0.82, 0.72, 0.55), rng.beta(1, 3.5) * 0.5 * np.clip(sheen, 0, 1))
    dark = np.exp(-(_ellipse(x, y, eye.macula, (0.24, 0.2), 0.0) ** 2))
    image *= 1 - (rng.uniform(0.15, 0.65) * dark)[..., None] * _rgb(0.8, 1.0, 1.0)
    pit = np.exp(-(_ellipse(x, y, eye.macula, (0.07, 0.07), 0.0) ** 2))
    image *= 1 - (rng.uniform(0.0, 0.5) * pit)[..., None]
    return image


def _add_patches(rng: np.random.Generator, eye: _Eye, x: _Array, y: _Array, image: _Array) -> None:
    """Draws atrophy: pale, ragged or smooth areas under the vessels, next to the disc and far from it."""
    patches: list[tuple[_Point, _Point, float]] = []  # centre, radii, opacity
    radius_x, radius_y = eye.disc_radii
    if rng.random() < 0.4:  # peripapillary crescent; the disc is drawn over it, so only its outer side is visible
        shift, growth = rng.uniform(0.2, 0.7), rng.uniform(1.0, 1.3)
        centre = (eye.disc[0] + eye.temporal * shift * radius_x, eye.disc[1] + rng.normal(0, 0.2) * radius_y)
        patches.append((centre, (growth * radius_x, growth * radius_y), rng.uniform(0.3, 0.95)))
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.4, 0.35, 0.17, 0.08])):
        scale = rng.uniform(0.35, 1.2)
        radii = (scale * radius_y * rng.uniform(0.75, 1.2), scale * radius_y)
        patches.append((_away_from_disc(rng, eye, radii[1]), radii, rng.uniform(0.3, 0.85)))
    for centre, radii, opacity in patches:
        ragged = rng.uniform(0.03, 0.3) * (_noise(rng, 9, len(x)) + 0.7 * _noise(rng, 24, len(x)))
        edge = _ellipse(x, y, centre, radii, rng.uniform(-0.8, 0.8)) + ragged
        inside = _step(1 - edge, rng.uniform(0.04, 0.2))
        spotted = 1 - rng.uniform(0.1, 0.6) * np.clip(_noise(rng, 44, len(x)), 0, 1.5)
        pale = (1.0, rng.uniform(0.6, 0.9), rng.uniform(0.28, 0.6))
        _blend(image, pale, opacity * inside * np.clip(spotted, 0, 1))


def _add_disc(rng: np.random.Generator, eye: _Eye, x: _Array, y: _Array, image: _Array, disc_radius: _Array) -> None:
    softness = rng.uniform(0.05, 0.2)
    # Some discs are hardly brighter than the retina, but all have a rim and vessels.
    opacity = rng.uniform(0.5, 0.75) if rng.random() < 0.15 else rng.uniform(0.8, 1.0)
    rim = (rng.uniform(0.92, 1.05), rng.uniform(0.44, 0.66), rng.uniform(0.2, 0.38))
    inside = _step(1 - disc_radius, softness)
    glow = np.exp(-(np.clip(disc_radius - 1, 0, None) ** 2) / 0.3) * (1 - inside)
    _blend(image, rim, rng.uniform(0.0, 0.25) * glow)
    border = np.exp(-(((disc_radius - 1.03) / 0.1) ** 2))  # scleral ring, pigmented or pale
    _blend(image, rim if rng.random() < 0.4 else (0.25, 0.1, 0.04), rng.uniform(0.0, 0.35) * border)
    _blend(image, rim, opacity * inside)
    # The nasal half carries more nerve fibres and is redder.
    nasal = np.clip((eye.disc[0] - x) * eye.temporal / eye.disc_radii[0], 0, 1)
    _blend(image, (0.85, 0.35, 0.2), rng.uniform(0.1, 0.5) * nasal * inside * opacity)
    cup = rng.uniform(0.3, 0.68)
    centre = (eye.disc[0] + eye.temporal * 0.15 * eye.disc_radii[0], eye.disc[1])
    cup_radius = _ellipse(x, y, centre, (cup * eye.disc_radii[0], cup * eye.disc_radii[1]), eye.disc_tilt)
    pale = (1.08, rng.uniform(0.82, 0.98), rng.uniform(0.5, 0.76))
    _blend(image, pale, opacity * rng.uniform(0.5, 1.0) * _step(1 - cup_radius, rng.uniform(0.1, 0.35)))


# ---------------------------------------------------------------- vessels


def _add_vessels(rng: np.random.Generator, eye: _Eye, image: _Array) -> None:
    size = len(image)
    finer = 4 if size <= 128 else 2  # supersampling, because vessels are about a pixel wide
    contrast = rng.uniform(0.35, 0.85)
    veins = np.zeros((size * finer, size * finer), np.uint8)
    arteries = np.zeros_like(veins)
    for points, widths, is_vein in _vessel_tree(rng, eye):
        # cv2 needs fixed-point numbers with 4 fractional bits, and has pixel centres at integers.
        pixels = np.round(((points + 1) * size * finer / 2 - 0.5) * 16).astype(np.int32)
        for start in range(0, len(pixels) - 1, 6):  # each piece has one thickness, so vessels become thinner
            thickness = max(1, round(widths[start] * size * finer / 2))
            layer = veins if is_vein else arteries
            cv2.polylines(layer, [pixels[start : start + 7]], False, 255, thickness, cv2.LINE_AA, 4)
    for layer, absorbed in ((arteries, (0.12, 0.46, 0.5)), (veins, (0.32, 0.64, 0.62))):
        coverage = cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        image *= 1 - contrast * coverage[..., None] * _rgb(*absorbed)


def _vessel_tree(rng: np.random.Generator, eye: _Eye) -> Iterator[tuple[_Array, _Array, bool]]:
    """Yields points (n, 2), widths (n,) and whether it is a vein, for each vessel from trunks to twigs.

    Headings are in degrees: 0 temporal, 90 down or up, 180 nasal.
    """
    calibre = rng.uniform(0.75, 1.25)
    for is_vein in (True, False):
        for vertical in (-1, 1):
            width = calibre * (0.027 if is_vein else 0.02)
            # An arcade around the macula, a nasal trunk, and up to two twigs towards the macula.
            plans = [(rng.uniform(70, 115), rng.uniform(-35, 0), rng.uniform(0.4, 0.75), width)]
            plans.append((rng.uniform(95, 130), rng.uniform(130, 175), rng.uniform(0.3, 0.6), 0.75 * width))
            for _ in range(rng.integers(0, 3)):
                plans.append((rng.uniform(15, 60), rng.uniform(0, 15), 0.3, 0.35 * width))
            for first, last, bend, trunk in plans:
                start = np.array(eye.disc) + rng.normal(0, 0.12, 2) * eye.disc_radii
                turn = (vertical * first, vertical * last, bend)
                for points, widths in _branch(rng, eye, start, turn, 2.2, trunk, 0):
                    yield points, widths, is_vein


def _branch(
    rng: np.random.Generator, eye: _Eye, origin: _Array, turn: tuple[float, float, float],
    length: float, width: float, depth: int,
) -> Iterator[tuple[_Array, _Array]]:  # fmt: skip
    """Yields a vessel, then its branches; ``turn``: first heading, last heading, length of the bend."""
    first, last, bend = turn
    step = 0.025
    along = np.arange(0, length, step)
    heading = np.radians(last + (first - last) * np.exp(-along / bend))
    heading += rng.uniform(0.05, 0.3) * np.sin(along * rng.uniform(6, 16) + rng.uniform(0, 6))
    heading += np.cumsum(rng.normal(0, 0.05, len(along)))
    steps = step * np.stack([eye.temporal * np.cos(heading), np.sin(heading)], axis=1)
    points = origin + np.cumsum(steps, axis=0) - steps[0]
    widths = width * (1 - 0.75 * along / length)
    # Vessels end at the fovea and at the rim.
    ends = (np.hypot(*points.T) > eye.retina_radius + 0.05) | (np.hypot(*(points - eye.macula).T) < 0.15)
    count = int(np.argmax(ends)) if ends.any() else len(points)
    if count < 2:
        return
    yield points[:count], widths[:count]
    if depth == 2:
        return
    side = rng.choice([-1, 1])
    for at in np.sort(rng.uniform(0.12, 0.95, rng.integers(3, 6) - 2 * depth)):
        node = int(at * (count - 1))
        side = -side
        start = float(np.degrees(heading[node])) + side * rng.uniform(25, 60)
        reach = (length - along[node]) * rng.uniform(0.3, 0.65)
        end = start - side * rng.uniform(0, 45)
        yield from _branch(rng, eye, points[node], (start, end, 0.25), reach, 0.6 * widths[node], depth + 1)


# ---------------------------------------------------------------- lesions and camera


def _add_spots(rng: np.random.Generator, eye: _Eye, image: _Array) -> None:
    """Draws small lesions over the vessels: exudates, drusen, cotton wool spots, haemorrhages."""
    kinds: list[tuple[float, _Colour, int, float, float, float, float]] = [
        # probability, colour, maximum number of spots, smallest and largest radius, spread of a cluster, softness
        (0.35, (1.0, 0.88, 0.5), 45, 0.006, 0.028, 0.14, 0.004),
        (0.25, (0.95, 0.75, 0.42), 70, 0.006, 0.02, 0.3, 0.012),
        (0.30, (1.0, 0.92, 0.78), 4, 0.03, 0.11, 0.35, 0.035),
        (0.25, (0.3, 0.05, 0.03), 18, 0.008, 0.035, 0.4, 0.01),
    ]
    size = len(image)
    for probability, colour, max_spots, smallest, largest, spread, softness in kinds:
        if rng.random() > probability:
            continue
        layer = np.zeros((2 * size, 2 * size), np.uint8)
        centre = _away_from_disc(rng, eye, 0.1)
        for _ in range(rng.integers(max(1, max_spots // 4), max_spots + 1)):
            position = (np.array(centre) + rng.normal(0, spread, 2) * (1.0, 0.8) + 1) * size * 16
            radii = rng.uniform(smallest, largest) * rng.uniform(0.6, 1.0, 2) * size * 16
            cv2.ellipse(
                layer, position.astype(int).tolist(), radii.astype(int).tolist(), rng.uniform(0, 180),
                0, 360, int(rng.integers(130, 256)), -1, cv2.LINE_AA, 4,
            )  # fmt: skip
        opacity = cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        soft: _Array = cv2.GaussianBlur(opacity, (0, 0), max(0.3, softness * size / 2))
        _blend(image, colour, rng.uniform(0.5, 0.95) * soft)


def _photograph(rng: np.random.Generator, eye: _Eye, x: _Array, y: _Array, image: _Array) -> _Array:
    """Applies the camera: illumination, reflections, focus, exposure, colour and sensor noise."""
    size = len(x)
    angle = rng.uniform(0, 2 * math.pi)
    slope = rng.uniform(0, 0.3) * (x * math.cos(angle) + y * math.sin(angle))
    off_axis = np.hypot(x - rng.normal(0, 0.15), y - rng.normal(0, 0.15)) / eye.retina_radius
    light = (1 + slope) * (1.1 - rng.uniform(0.1, 0.6) * off_axis**2) * (1 + 0.07 * _noise(rng, 4, size))
    image = image * np.clip(light, 0.08, None)[..., None]
    haze = np.clip(off_axis + slope - 0.45, 0, None) ** 2  # bluish-green stray light at the rim
    image += (rng.uniform(0, 0.5) * haze)[..., None] * _rgb(0.45, 0.8, 0.62)
    for _ in range(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15])):
        image += _flare(rng, eye, x, y)

    sigma = rng.uniform(0.001, 0.003) if rng.random() < 0.7 else rng.uniform(0.003, 0.008)
    image = cv2.GaussianBlur(image, (0, 0), max(0.2, sigma * size))
    image *= _rgb(*rng.uniform(0.93, 1.07, 3) * rng.uniform(0.6, 1.15))
    image = np.clip(image, 0, None) ** rng.uniform(0.95, 1.3)
    image /= (1 + image**5) ** 0.2  # soft instead of hard clipping
    image *= _step(eye.retina_radius - np.hypot(x, y), 1.2 / size)[..., None]
    # The grain is drawn last because it needs more random numbers at larger sizes; so the eye is equal at every size.
    grain = rng.standard_normal((size, size, 3), np.float32) * rng.uniform(0.004, 0.018)
    return np.clip(image + grain * (0.15 + image), 0, 1)


def _flare(rng: np.random.Generator, eye: _Eye, x: _Array, y: _Array) -> _Array:
    """Returns a lens flare: an arc at the rim or a round spot, at most as bright as a disc."""
    strength = rng.uniform(0.1, 0.5)
    if rng.random() < 0.5:
        radius, width, angle = rng.uniform(0.75, 1.0), rng.uniform(0.02, 0.08), rng.uniform(0, 2 * np.pi)
        ring = np.exp(-(((np.hypot(x, y) / eye.retina_radius - radius) / width) ** 2))
        toward = (x * math.cos(angle) + y * math.sin(angle)) / (np.hypot(x, y) + 1e-3)
        shape = ring * np.clip((toward - 0.6) / 0.4, 0, 1)
    else:
        radius = rng.uniform(0.08, 0.22)
        ghost = _ellipse(x, y, _away_from_disc(rng, eye, radius), (radius, radius), 0)
        shape = _step(1 - ghost, rng.uniform(0.1, 0.5))
        shape *= np.clip(0.8 + 0.25 * _noise(rng, 7, len(x)), 0.2, 1.2)
    tint = _rgb(1.0, rng.uniform(0.7, 1.0), rng.uniform(0.45, 0.95))
    return strength * shape[..., None] * tint


# ---------------------------------------------------------------- drawing helpers


def _away_from_disc(rng: np.random.Generator, eye: _Eye, radius: float) -> _Point:
    """Returns a random position in the retina for an object of ``radius`` that does not cover the disc."""
    while True:
        distance, angle = 0.85 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        place = (distance * math.cos(angle), distance * math.sin(angle))
        if math.dist(place, eye.disc) > 1.15 * (radius + eye.disc_radii[1]):
            return place


def _noise(rng: np.random.Generator, cells: int, size: int) -> _Array:
    """Returns smooth noise of about unit variance with ``cells`` features across the image."""
    grid = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _polar_noise(rng: np.random.Generator, theta: _Array, radius: _Array, cells: tuple[int, int]) -> _Array:
    """Returns noise with ``cells`` features per turn and per unit of radius, without a seam."""
    grid = rng.standard_normal((64, cells[0]), np.float32)
    column, row = theta / (2 * np.pi) % 1 * cells[0], radius * cells[1]
    column, row = column.astype(np.float32), row.astype(np.float32)
    return cv2.remap(grid, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)


def _ellipse(x: _Array, y: _Array, centre: _Point, radii: _Point, tilt: float) -> _Array:
    """Returns the distance from ``centre``, scaled to 1 on the ellipse."""
    dx, dy, cos, sin = x - centre[0], y - centre[1], math.cos(tilt), math.sin(tilt)
    distance: _Array = np.hypot((dx * cos + dy * sin) / radii[0], (dy * cos - dx * sin) / radii[1])
    return distance


def _step(value: _Array, softness: float) -> _Array:
    """Returns a smooth step: 0 for negative values, 0.5 at zero, 1 for positive values."""
    ramp: _Array = 0.5 + 0.5 * np.tanh(value / softness)
    return ramp


def _rgb(red: float, green: float, blue: float) -> _Array:
    return np.array([red, green, blue], np.float32)


def _blend(image: _Array, colour: _Colour, opacity: _Array) -> None:
    image += opacity[..., None] * (_rgb(*colour) - image)
