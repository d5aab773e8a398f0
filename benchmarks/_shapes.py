"""Generated groups of many shapes for `partitions.py`: rows, labels, -1 for noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Drawing = tuple[np.ndarray, np.ndarray]
SHAPES: dict[str, Callable[[np.random.Generator], Drawing]] = {}


def shape(draw):
    """Add a drawing to the collection."""
    SHAPES[draw.__name__] = draw
    return draw


def draw(name: str, seed: int) -> Drawing:
    """Rows of a shape in a random order, and their labels."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    X, y = SHAPES[name](rng)
    order = rng.permutation(len(X))
    return X[order], y[order]


def grouped(parts) -> Drawing:
    """All rows, and the number of the part that each is of."""
    return np.concatenate(parts), np.repeat(
        np.arange(len(parts)), list(map(len, parts))
    )


def in_noise(rng, drawing: Drawing, n: int) -> Drawing:
    """The same with uniform noise over its range."""
    X, y = drawing
    noise = rng.uniform(X.min(axis=0), X.max(axis=0), (n, X.shape[1]))
    return np.concatenate([X, noise]), np.concatenate([y, np.full(n, -1)])


def path(rng, corners, n, width):
    """Rows along a line through corners."""
    corners = np.asarray(corners, dtype=float)
    sides = np.diff(corners, axis=0)
    lengths = np.hypot(*sides.T)
    ends = np.concatenate([[0.0], lengths.cumsum()])
    place = rng.uniform(0, ends[-1], n)
    side = np.clip(np.searchsorted(ends, place) - 1, 0, len(sides) - 1)
    along = ((place - ends[side]) / lengths[side])[:, None]
    return corners[side] + along * sides[side] + width * rng.normal(size=(n, 2))


def frame(rng, half, n, width):
    """Rows along the sides of a square around zero."""
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    return path(rng, [*corners, corners[0]], n, width)


def blob(rng, centre, width, n):
    """Gaussian rows."""
    return np.asarray(centre) + width * rng.normal(size=(n, len(centre)))


def arc(rng, centre, radius, width, n, start=0.0, end=2 * np.pi):
    """Rows along an arc, by default a ring."""
    angle = rng.uniform(start, end, n)
    length = radius + width * rng.normal(size=n)
    return np.asarray(centre) + length[:, None] * np.c_[np.cos(angle), np.sin(angle)]


def box(rng, low, high, n):
    """Uniform rows."""
    return rng.uniform(low, high, (n, len(low)))


def curve(rng, t, height, width):
    """Rows about the graph of a function."""
    return np.c_[t, height] + width * rng.normal(size=(len(t), 2))


@shape
def cross_of_bars(rng):
    lows = [(-5, -0.4), (0.6, -0.4), (-0.4, -5), (-0.4, 0.6)]
    highs = [(-0.6, 0.4), (5, 0.4), (0.4, -0.6), (0.4, 5)]
    return grouped([box(rng, *ends, 500) for ends in zip(lows, highs, strict=True)])


@shape
def crossing_gaussians(rng):
    return grouped([blob(rng, (0, 0), w, 800) for w in ([3, 0.3], [0.3, 3])])


@shape
def windows(rng):
    frames = [frame(rng, h, n, 0.12) for h, n in ((1, 300), (2.2, 600), (3.6, 900))]
    boxes = [box(rng, (-0.4, -0.4), (0.4, 0.4), 200), box(rng, (5, -1), (6, 1), 300)]
    return grouped([*frames, *boxes])


@shape
def labyrinth(rng):
    walls = (
        ([(0, 0), (8, 0), (8, 8), (2, 8), (2, 2)], 700),
        ([(1, 1), (1, 9), (9, 9), (9, -1)], 700),
        ([(4, 2), (6, 2), (6, 6), (4, 6), (4, 4)], 500),
        ([(-1, -1), (-1, 10)], 350),
    )
    return grouped([path(rng, corners, n, 0.15) for corners, n in walls])


@shape
def letters(rng):
    z = np.array([(0, 3), (3, 3), (0, 0), (3, 0)])
    shifts = [(0, 0), (4, 0), (2, -4)]
    return grouped([path(rng, z + shift, 400, 0.12) for shift in shifts])


@shape
def nested_letter(rng):
    return grouped(
        [
            path(rng, [(0, 4), (4, 4), (0, 0), (4, 0)], 400, 0.2),
            path(rng, [(0, 3.2), (1.8, 3.2), (0, 1.2)], 250, 0.15),
            path(rng, [(4, 0.8), (2.2, 0.8), (4, 2.8)], 250, 0.15),
        ]
    )


@shape
def linked_rings_and_blob(rng):
    s, t = rng.uniform(0, 2 * np.pi, (2, 500))
    rings = [np.c_[np.cos(s), np.sin(s), 0 * s], np.c_[np.cos(t) + 1, 0 * t, np.sin(t)]]
    X, y = grouped([*rings, blob(rng, (0, 0, 1.6), 0.1, 300)])
    return X + 0.06 * rng.normal(size=X.shape), y


@shape
def touching_blobs(rng):
    centres = [(0, 0), (3.2, 0), (1.6, 2.9)]
    return grouped([blob(rng, centre, 1.0, 200) for centre in centres])


@shape
def double_helix(rng):
    t = rng.uniform(0, 4 * np.pi, 500)
    strands = [np.c_[np.cos(t + a), np.sin(t + a), t / 3] for a in (0, np.pi)]
    strands = [strand + 0.1 * rng.normal(size=strand.shape) for strand in strands]
    return grouped([*strands, blob(rng, (0, 0, 2.0), 0.15, 300)])


@shape
def three_rings(rng):
    return grouped([arc(rng, (0, 0), radius, 0.06, 1500) for radius in (1, 2, 3)])


@shape
def crossing_rings(rng):
    centres = [(0, 0), (2.3, 0), (4.6, 0), (1.15, -1), (3.45, -1)]
    return grouped([arc(rng, centre, 1, 0.07, 500) for centre in centres])


@shape
def waves(rng):
    s, t = rng.uniform(-3, 3, (2, 900))
    return grouped(
        [curve(rng, s, np.sin(1.5 * s), 0.1), curve(rng, t, np.sin(1.5 * t) + 1, 0.1)]
    )


@shape
def crossing_tracks(rng):
    parts = []
    for k, (height, swing) in enumerate(((0, 0), (1, 3), (2, -2), (5, 1))):
        t = rng.uniform(0, 10, 800)
        parts.append(curve(rng, t, 1.5 * height + swing * np.sin(t / 3 + k), 0.1))
    return grouped(parts)


@shape
def splashes(rng):
    parts = [0.5 * np.abs(rng.standard_t(3, size=(200, 2))) + 0.1 for _ in "ab"]
    return grouped([parts[0], -parts[1]])


@shape
def dense_and_sparse(rng):
    return grouped([blob(rng, (0, 0), 0.15, 100), blob(rng, (2, 0), 0.8, 100)])


@shape
def star(rng):
    parts = []
    for way in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        t = rng.uniform(0.8, 4, 230)[:, None]
        parts.append(t * np.array(way) / 2**0.5 + 0.22 * rng.normal(size=(230, 2)))
    return grouped([*parts, blob(rng, (0, 0), 0.3, 100)])


@shape
def line_and_blob(rng):
    line = path(rng, [(-3, 0), (3, 0)], 150, 0.05)
    return grouped([line, blob(rng, (0, 1.3), 0.35, 100)])


@shape
def crossing_parabolas(rng):
    s, t = rng.uniform(-2, 2, (2, 500))
    return grouped([curve(rng, s, s**2, 0.15), curve(rng, t + 1, 2.8 - t**2, 0.15)])


@shape
def ring_in_noise(rng):
    parts = [arc(rng, (0, 0), 2, 0.1, 500), blob(rng, (0, 0), 0.35, 500)]
    return in_noise(rng, grouped(parts), 60)


@shape
def ring_among_outliers(rng):
    X, y = grouped([arc(rng, (0, 0), 2, 0.1, 500), blob(rng, (0, 0), 0.35, 500)])
    far = 6 * rng.normal(size=(30, 2))
    return np.concatenate([X, far]), np.concatenate([y, np.full(30, -1)])


@shape
def zigzag_in_noise(rng):
    sides = [[(0, 0), (1, 2)], [(1.4, 2.2), (2.4, 0)], [(2.8, 0), (3.8, 2)]]
    return in_noise(rng, grouped([path(rng, side, 80, 0.08) for side in sides]), 30)


@shape
def twenty_blobs(rng):
    return grouped([blob(rng, c, 0.8, 120) for c in rng.uniform(0, 20, (20, 2))])


@shape
def grid_of_blobs(rng):
    centres = np.array([(i, j) for i in range(6) for j in range(6)])[:31] * 3.2
    centres = centres + 0.3 * rng.normal(size=centres.shape)
    return grouped([blob(rng, centre, 0.7, 100) for centre in centres])


@shape
def unlike_pairs(rng):
    return grouped(
        [
            blob(rng, (0, 4), 0.5, 50),
            blob(rng, (2, 4), 0.5, 90),
            arc(rng, (0, 0), 1.4, 0.12, 90),
            blob(rng, (0, 0), 0.3, 40),
            blob(rng, (6, 2), 1.6, 60),
            blob(rng, (6, 2), 0.3, 60),
        ]
    )


@shape
def unequal_moons(rng):
    return grouped(
        [
            arc(rng, (0, 0), 3, 0.3, 100, 0, np.pi),
            arc(rng, (3, 1), 3, 0.25, 280, np.pi, 2 * np.pi),
        ]
    )


@shape
def blobs_in_open_ring(rng):
    return grouped(
        [
            arc(rng, (0, 0), 3, 0.15, 110, -0.3, np.pi + 0.3),
            blob(rng, (-1.2, 0), 0.5, 97),
            blob(rng, (1.2, 0), 0.5, 93),
        ]
    )


@shape
def rings_of_blobs(rng):
    angles = 2 * np.pi * np.arange(7) / 7
    centres = [
        (radius * np.cos(a), radius * np.sin(a)) for radius in (1.6, 4) for a in angles
    ]
    return grouped([blob(rng, centre, 0.25, 40) for centre in [(0, 0), *centres]])


@shape
def overlapping_blobs(rng):
    parts = []
    for centre in rng.uniform(0, 10, (15, 2)):
        turn = np.eye(2) + 0.05 * rng.normal(size=(2, 2))
        parts.append(blob(rng, centre, 1, 150) @ turn)
    return grouped(parts)


@shape
def worms(rng):
    parts = []
    for i in range(12):
        angle, corners = rng.uniform(0, 2 * np.pi), [np.array([i % 4, i // 4]) * 4.0]
        for _ in range(25):
            angle += 0.35 * rng.normal()
            step = np.array([np.cos(angle), np.sin(angle)])
            corners.append(corners[-1] + 0.12 * step)
        parts.append(path(rng, corners, 200, 0.12))
    return grouped(parts)


@shape
def landscape_in_noise(rng):
    parts = [
        path(rng, [(0, 0), (3, 3), (6, 0), (9, 3), (12, 0)], 900, 0.25),
        arc(rng, (3, 7), 1.5, 0.2, 500),
        box(rng, (7, 5), (11, 6.2), 700),
        blob(rng, (3, 7), 0.3, 250),
        box(rng, (0, -3), (12, -2), 600),
        box(rng, (13.5, -3), (14.5, 8), 500),
    ]
    return in_noise(rng, grouped(parts), 350)


@shape
def arrows_in_noise(rng):
    arrows = [[(x, 0), (x + 0.8, 1.2), (x, 2.4)] for x in (0, 2.2, 4.4)]
    lows, highs = [(0, 3.4), (0, -2), (3.5, -2)], [(6, 4.2), (2.5, -0.8), (6, -0.8)]
    sizes = (700, 400, 400)
    boxes = [box(rng, *b) for b in zip(lows, highs, sizes, strict=True)]
    parts = [*(path(rng, corners, 350, 0.15) for corners in arrows), *boxes]
    return in_noise(rng, grouped(parts), 250)


@shape
def two_in_8d(rng):
    return grouped([blob(rng, [at] * 8, 1.0, 500) for at in (0.0, 1.0)])


@shape
def wide_and_narrow_16d(rng):
    return grouped([width * rng.normal(size=(500, 16)) for width in (1.0, 2.0)])


@shape
def wide_and_narrow_4d(rng):
    return grouped([width * rng.normal(size=(800, 4)) for width in (1.0, 3.0)])


@shape
def mixture_in_noise(rng):
    parts = [
        blob(rng, (-2, -1), [0.3, 0.6], 300),
        blob(rng, (0, 2), [0.9, 0.25], 400),
        arc(rng, (3, 0), 1.2, 0.15, 300, 0, np.pi),
        arc(rng, (4.2, 0.4), 1.2, 0.15, 300, np.pi, 2 * np.pi),
        blob(rng, (-3, 3), 0.25, 200),
        blob(rng, (1, -2.5), 0.4, 300),
    ]
    return in_noise(rng, grouped(parts), 200)


@shape
def blob_in_square(rng):
    return grouped([frame(rng, 2, 500, 0.08), blob(rng, (0, 0), 0.5, 500)])


@shape
def chain_of_ellipses(rng):
    parts = []
    for i in range(5):
        cos, sin = np.cos(0.9 * i), np.sin(0.9 * i)
        turn = np.array([[cos, sin], [-sin, cos]])
        parts.append(blob(rng, (0, 0), [1.2, 0.2], 200) @ turn + [2.2 * i, 0])
    return grouped(parts)


@shape
def long_neighbours(rng):
    return grouped([blob(rng, (0, 1.2 * i), [4, 0.25], 300) for i in range(4)])


@shape
def large_and_small(rng):
    small = [blob(rng, (6, at), 0.5, 100) for at in (-3, 0, 3)]
    return grouped([blob(rng, (0, 0), 1.0, 2000), *small])


@shape
def blob_in_sphere(rng):
    ways = rng.normal(size=(400, 3))
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    return grouped(
        [
            2 * ways + 0.1 * rng.normal(size=ways.shape),
            blob(rng, (0, 0, 0), 0.2, 300),
            blob(rng, (3, 0, 0), [0.2, 0.2, 1.5], 300),
        ]
    )


@shape
def bent_5d(rng):
    parts = []
    for _ in range(5):
        z = rng.normal(size=(300, 5))
        z[:, 1] += 0.8 * (z[:, 0] ** 2 - 1)
        turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        parts.append(0.6 * z @ turn + 2.5 * rng.normal(size=5))
    return grouped(parts)
