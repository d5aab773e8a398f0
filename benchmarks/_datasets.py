"""Data sets for the quality benchmark: from files, from scikit-learn, and generated.

Every function returns ``name -> loader``; a loader takes a seed and returns fresh
arrays. Sets read from files ignore the seed, generated ones are drawn with it.

Layout of the data folder: ``density/*.npz`` (``X``), ``anomaly/*.npz`` (``X`` and
``y``, 1 = outlier), ``clustering/*.npz`` (``X`` and ``labels0``, ``labels1``, ...,
0 = noise) and ``clustering/published_ari.json`` (``set -> method -> ARI``). With
``mnist.npz`` there is a density set of its first ten principal components.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from _images import mnist
from sklearn import datasets
from sklearn.decomposition import PCA

Loader = Callable[[int], tuple]


def density_sets(folder: Path) -> dict[str, Loader]:
    """``loader(seed) -> (X,)``."""
    sets = {p.stem: partial(_read_x, p) for p in sorted(folder.glob("density/*.npz"))}
    for path in sorted(folder.glob("anomaly/*.npz")):
        sets[f"{path.stem}_normals"] = partial(_read_normals, path)
    for name in ("iris", "wine", "breast_cancer", "diabetes", "digits"):
        sets[f"sk_{name}"] = partial(_read_sklearn, name)
    if (folder / "mnist.npz").exists():
        sets["mnist_components"] = partial(_read_mnist_components, folder)
    made = (student_t, bounded, zero_inflated, mixed_scales, manifold, tiny)
    return sets | {f"made_{f.__name__}": partial(_draw_x, f) for f in made}


def anomaly_sets(folder: Path) -> dict[str, Loader]:
    """``loader(seed) -> (X, y)`` with y = 1 for outliers."""
    paths = sorted(folder.glob("anomaly/*.npz"))
    return {path.stem: partial(_read_xy, path) for path in paths}


def clustering_sets(folder: Path) -> dict[str, Loader]:
    """``loader(seed) -> (X, [labels, ...])``; rows labelled 0 are noise."""
    paths = sorted(folder.glob("clustering/*.npz"))
    sets = {path.stem: partial(_read_labelings, path) for path in paths}
    return sets | {f"made_{name}": partial(_draw_xy, f) for name, f in SHAPES.items()}


def published_ari(folder: Path) -> dict[str, dict[str, float]]:
    """ARIs that others published, by set and method; empty without the file."""
    path = folder / "clustering" / "published_ari.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _read_x(path, seed):
    with np.load(path) as file:
        return (file["X"].astype(np.float64),)


def _read_xy(path, seed):
    with np.load(path) as file:
        return file["X"].astype(np.float64), file["y"]


def _read_normals(path, seed):
    X, y = _read_xy(path, seed)
    return (X[y == 0],)


def _read_sklearn(name, seed):
    return (getattr(datasets, f"load_{name}")().data.astype(np.float64),)


def _read_mnist_components(folder, seed):
    components = PCA(10, svd_solver="covariance_eigh")
    return (components.fit_transform(mnist(folder)[0].astype(np.float64)),)


def _read_labelings(path, seed):
    with np.load(path) as file:
        names = sorted(name for name in file.files if name.startswith("labels"))
        return file["X"].astype(np.float64), [file[name] for name in names]


def _draw_x(generator, seed):
    return (generator(np.random.default_rng(seed)),)


def _draw_xy(generator, seed):
    X, y = generator(np.random.default_rng(seed))
    order = np.random.default_rng(seed).permutation(len(X))
    return X[order], [y[order] + 1]


# Density: hard in ways the files are not


def student_t(rng, n=2000, d=5):
    """Correlated Student t with 2 degrees of freedom: infinite variance."""
    mixing = np.tril(rng.normal(size=(d, d))) + 2 * np.eye(d)
    scale = np.sqrt(2 / rng.chisquare(2, size=(n, 1)))
    return scale * rng.normal(size=(n, d)) @ mixing.T


def bounded(rng, n=2000):
    """Columns that end in walls, some dependent: uniform, beta, simplex, half."""
    u = rng.uniform(size=n)
    simplex = rng.dirichlet((0.6, 1.0, 2.0), size=n)[:, :2]
    below = u * rng.uniform(size=n)
    arcsine = rng.beta(0.5, 0.5, size=n)
    half = np.abs(rng.normal(size=n))
    return np.column_stack([u, below, arcsine, half, simplex])


def zero_inflated(rng, n=2000, d=6):
    """Log-normal amounts, 30 to 70 % of each column exactly zero, together."""
    latent = rng.normal(size=(n, 1))
    amounts = np.exp(0.5 * latent + 0.7 * rng.normal(size=(n, d)))
    present = latent + rng.normal(size=(n, d)) > np.linspace(-0.7, 0.7, d)
    return amounts * present


def mixed_scales(rng, n=2000, d=6):
    """Groups 1, 0.1 and 0.01 wide, and columns from 1e-3 to 1e3."""
    group = rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    centre = 2 * rng.normal(size=(3, d))
    X = centre[group] + 10.0 ** -group[:, None] * rng.normal(size=(n, d))
    X[:, -2:] = np.exp(X[:, -2:])
    return X * 10.0 ** np.linspace(-3, 3, d)


def manifold(rng, n=2000, d=8, noise=0.01):
    """A torus (2-D, curved) turned into 8-D, with a little noise about it."""
    a, b = rng.uniform(0, 2 * np.pi, size=(2, n))
    ring = 2 + 0.8 * np.cos(b)
    torus = np.column_stack([ring * np.cos(a), ring * np.sin(a), 0.8 * np.sin(b)])
    waves = np.column_stack([np.cos(a + b), np.sin(2 * a)])
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return np.hstack([torus, waves]) @ turn[:5] + noise * rng.normal(size=(n, d))


def tiny(rng, n=60, d=8):
    """Sixty rows of two correlated Gaussians in 8-D."""
    group = rng.integers(2, size=n)
    mixing = rng.normal(size=(2, d, d)) / np.sqrt(d)
    noise = np.einsum("nij,nj->ni", mixing[group], rng.normal(size=(n, d)))
    return 1.5 * group[:, None] + noise + 0.1 * rng.normal(size=(n, d))


# Clustering: shapes with known groups


def moons(rng, n=1000):
    """Two interleaved half circles."""
    return datasets.make_moons(n, noise=0.07, random_state=int(rng.integers(2**31)))


def circles(rng, n=1000):
    """One circle in another."""
    state = int(rng.integers(2**31))
    return datasets.make_circles(n, noise=0.05, factor=0.5, random_state=state)


def pinwheel(rng, arms=5, per_arm=200):
    """Arms of a wheel, bent by 0.25 exp(radius) (Johnson et al., 2016)."""
    y = np.repeat(np.arange(arms), per_arm)
    arm = rng.normal(size=(len(y), 2)) * (0.3, 0.1) + (1, 0)
    angle = 2 * np.pi * y / arms + 0.25 * np.exp(arm[:, 0])
    return 10 * _rotate(arm, angle), y


def anisotropic(rng, n=900):
    """Three sheared blobs."""
    centres = np.array([[-4.0, 0.0], [0.0, 0.0], [4.0, 1.0]])
    y = rng.integers(3, size=n)
    return (centres[y] + rng.normal(size=(n, 2))) @ [[0.6, -0.6], [-0.4, 0.85]], y


def linked_rings(rng, n=1000, d=5):
    """Two linked rings in three of five turned dimensions."""
    y = rng.integers(2, size=n)
    angle = rng.uniform(0, 2 * np.pi, size=n)
    X = np.zeros((n, d))
    X[:, 0] = np.cos(angle) + y
    X[:, 1] = np.where(y == 0, np.sin(angle), 0)
    X[:, 2] = np.where(y == 1, np.sin(angle), 0)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (X + 0.08 * rng.normal(size=(n, d))) @ turn, y


def varied_densities(rng, n=1200):
    """Three blobs in a row, 0.1, 0.5 and 1.5 wide."""
    y = rng.integers(3, size=n)
    centre = np.array([[0.0, 0.0], [2.2, 0.0], [7.5, 0.0]])
    width = np.array([0.1, 0.5, 1.5])
    return centre[y] + width[y, None] * rng.normal(size=(n, 2)), y


def unbalance(rng):
    """Two groups of 900 rows and four of 50."""
    y = np.repeat(np.arange(6), [900, 900, 50, 50, 50, 50])
    centre = np.array([[0, 0], [4, 0], [14, 2], [14, -2], [18, 2], [18, -2.0]])
    width = np.where(y < 2, 1.0, 0.4)[:, None]
    return centre[y] + width * rng.normal(size=(len(y), 2)), y


def stripes(rng, strips, per_strip=250):
    """Long thin parallel strips, turned by 30 degrees."""
    y = np.repeat(np.arange(strips), per_strip)
    along = rng.uniform(0, 12, size=len(y))
    across = y + 0.1 * rng.normal(size=len(y))
    return _rotate(np.column_stack([along, across]), np.pi / 6), y


def spirals(rng, arms=3, per_arm=300):
    """Arms that turn once and a quarter about a common centre."""
    y = np.repeat(np.arange(arms), per_arm)
    t = np.sqrt(rng.uniform(0.05, 1, size=len(y)))
    arm = np.column_stack([10 * t, np.zeros_like(t)])
    angle = 2.5 * np.pi * t + 2 * np.pi * y / arms
    return _rotate(arm, angle) + 0.25 * rng.normal(size=(len(y), 2)), y


def long_spirals(rng, n, turns):
    """Two arms that turn several times about a common centre."""
    y = np.arange(n) % 2
    t = np.sqrt(rng.uniform(0.03, 1, size=n))
    arm = np.column_stack([10 * t, np.zeros(n)])
    angle = 2 * np.pi * turns * t + np.pi * y
    return _rotate(arm, angle) + 0.2 * rng.normal(size=(n, 2)), y


def combs(rng, n=2000, teeth=5):
    """Two combs, the teeth of one between those of the other."""
    y = np.arange(n) % 2
    is_spine = rng.uniform(size=n) < 0.3
    along = rng.uniform(0, 2 * teeth - 2, size=n)
    x = np.where(is_spine, along, 2.0 * rng.integers(teeth, size=n))
    height = np.where(is_spine, 0.0, rng.uniform(0, 4, size=n))
    own = np.column_stack([x, height])
    other = np.column_stack([2 * teeth - 1 - x, 5.5 - height])
    return np.where(y[:, None] == 0, own, other) + 0.1 * rng.normal(size=(n, 2)), y


def rings_with_gaps(rng, n=1200, gaps=4):
    """Three rings about one centre, each in arcs with gaps between them."""
    y = rng.integers(3, size=n)
    radius = np.array([1.0, 2.0, 3.0])[y]
    part = rng.integers(gaps, size=n) + 0.9 * rng.uniform(size=n)
    angle = 2 * np.pi * part / gaps + 0.4 * y
    ring = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return ring + 0.06 * rng.normal(size=(n, 2)), y


def chains(rng, n=1000, links=6):
    """Two chains of ellipses that turn by turns one way and the other."""
    y, link = np.arange(n) % 2, rng.integers(links, size=n)
    ellipse = rng.normal(size=(n, 2)) * (0.5, 0.12)
    ellipse = _rotate(ellipse, np.where(link % 2 == 0, 0.8, -0.8))
    return ellipse + np.column_stack([1.2 * link, 2.2 * y]), y


def blobs_20d(rng, n=1000, k=8, d=20):
    """Eight round groups in 20-D that nearly touch."""
    y = rng.integers(k, size=n)
    return 1.2 * rng.normal(size=(k, d))[y] + rng.normal(size=(n, d)), y


def with_binary_columns(rng, shape, n_columns):
    """A shape, and coins that know nothing of its groups."""
    X, y = shape(rng)
    return np.column_stack([X, rng.integers(2, size=(len(X), n_columns))]), y


def with_heaps_at_zero(rng, shape, n_columns):
    """A shape, and amounts that know nothing of its groups, three in five zero."""
    X, y = shape(rng)
    amounts = rng.gamma(2.0, size=(len(X), n_columns))
    present = rng.uniform(size=amounts.shape) < 0.4
    return np.column_stack([X, amounts * present]), y


def _rotate(X, angle):
    """Rotate the rows of X (n, 2) by an angle each, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.column_stack([c * X[:, 0] - s * X[:, 1], s * X[:, 0] + c * X[:, 1]])


SHAPES = {
    "moons": moons,
    "circles": circles,
    "pinwheel": pinwheel,
    "anisotropic": anisotropic,
    "linked_rings_5d": linked_rings,
    "varied_densities": varied_densities,
    "unbalance": unbalance,
    **{f"stripes{k}": partial(stripes, strips=k) for k in (2, 3, 4, 5)},
    "spirals": spirals,
    "long_spirals300": partial(long_spirals, n=300, turns=1.25),
    "long_spirals600": partial(long_spirals, n=600, turns=1.75),
    "long_spirals1000": partial(long_spirals, n=1000, turns=2.0),
    "combs": combs,
    "rings_with_gaps": rings_with_gaps,
    "chains": chains,
    "blobs_20d": blobs_20d,
    "moons_binary": partial(with_binary_columns, shape=moons, n_columns=1),
    "blobs_binary": partial(with_binary_columns, shape=blobs_20d, n_columns=2),
    "pinwheel_zeros": partial(with_heaps_at_zero, shape=pinwheel, n_columns=1),
    "blobs_zeros": partial(with_heaps_at_zero, shape=blobs_20d, n_columns=2),
}
