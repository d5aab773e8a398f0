"""Handwritten digits, and features in which nearest neighbours are the same digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter
from sklearn.datasets import fetch_openml
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

SIDE = 28
N_TRAIN = 60_000
N_PRINCIPAL = 50
ROWS_AT_ONCE = 5000


def mnist(path: Path | None = None) -> tuple[np.ndarray, ...]:
    """``X_train, y_train, X_test, y_test``: rows of 784 grey values, 0 to 255.

    Parameters
    ----------
    path : Path, optional
        ``mnist.npz`` with ``x_train``, ``y_train``, ``x_test`` and ``y_test``, or its
        folder; without it, `fetch_openml` downloads the images or finds them.
    """
    if path is None:
        X, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False)
        X, y = X.astype(np.uint8), y.astype(int)
        return X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:], y[N_TRAIN:]
    with np.load(path / "mnist.npz" if path.is_dir() else path) as file:
        X_train, X_test = (
            file[name].reshape(-1, SIDE**2) for name in ("x_train", "x_test")
        )
        return X_train, file["y_train"].astype(int), X_test, file["y_test"].astype(int)


def image_features() -> Pipeline:
    """Upright images, orientations of their edges, and the principal components."""
    return make_pipeline(
        FunctionTransformer(deskew),
        FunctionTransformer(edge_orientations),
        PCA(N_PRINCIPAL, svd_solver="covariance_eigh"),
    )


def deskew(X: np.ndarray) -> np.ndarray:
    """Shear every image (a row of X) until its axis is upright, and centre it."""
    images = X.reshape(-1, SIDE, SIDE).astype(np.float32)
    middle = np.full(2, (SIDE - 1) / 2)
    row, column = (np.indices((SIDE, SIDE)) - middle[0]).reshape(2, -1)
    upright = np.empty_like(images)
    for image, out in zip(images, upright, strict=True):
        ink = image.ravel().astype(np.float64)
        ink /= max(ink.sum(), 1e-12)
        centre = np.array([ink @ row, ink @ column])
        variance = ink @ row**2 - centre[0] ** 2
        covariance = ink @ (row * column) - centre[0] * centre[1]
        shear = np.array([[1, 0], [covariance / max(variance, 1e-12), 1]])
        offset = middle + centre - shear @ middle
        affine_transform(image, shear, offset=offset, output=out, order=1)
    return upright.reshape(len(X), -1)


def edge_orientations(
    X: np.ndarray, n_orientations: int = 8, cell: int = 4, blur: float = 0.7
) -> np.ndarray:
    """Histograms of the gradient's orientation in overlapping cells.

    Gradients of the blurred image vote for the two nearest of `n_orientations`
    directions, by their length; votes are summed in windows half a `cell` wide
    (standard deviation), `cell` pixels apart. The root of the normalised histogram
    makes distances those of Hellinger.

    References
    ----------
    N. Dalal and B. Triggs, Histograms of Oriented Gradients for Human Detection,
    CVPR 2005.
    """
    chunks = np.array_split(X, len(X) // ROWS_AT_ONCE + 1)
    parts = [_orientations(part, n_orientations, cell, blur) for part in chunks]
    return np.concatenate(parts)


def _orientations(X, n_orientations, cell, blur):
    images = X.reshape(-1, SIDE, SIDE).astype(np.float32)
    images = gaussian_filter(images, (0, blur, blur))
    vertical, horizontal = np.gradient(images, axis=(1, 2))
    length = np.hypot(vertical, horizontal)
    turn = np.arctan2(vertical, horizontal) / (2 * np.pi) * n_orientations
    histograms = []
    for orientation in range(n_orientations):
        half = n_orientations / 2
        apart = np.abs((turn - orientation + half) % n_orientations - half)
        votes = length * np.clip(1 - apart, 0, None)
        votes = gaussian_filter(votes, (0, cell / 2, cell / 2))
        votes = votes[:, cell // 2 :: cell, cell // 2 :: cell]
        histograms.append(votes.reshape(len(X), -1))
    features = np.concatenate(histograms, axis=1)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return np.sqrt(np.clip(features, 0, None) / np.maximum(norm, 1e-12))
