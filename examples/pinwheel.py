"""Fit the pinwheel of the paper: samples by component, regions of the posterior.

G. G. P. Freitas Pires and M. A. T. Figueiredo, Variational Mixture of Normalizing
Flows, ESANN 2020, figure 1: five wings, one flow for each, no labels. Saves
pinwheel.png.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import adjusted_rand_score

from skflowmix import FlowMixture


def pinwheel(random_state, n_per_wing=512, n_wings=5, radial=0.3, tangential=0.05):
    """Draw Gaussian wings, curved by a rotation that grows with the radius."""
    wings = np.repeat(np.arange(n_wings), n_per_wing)
    points = random_state.normal(size=(len(wings), 2)) * [radial, tangential]
    points[:, 0] += 1
    angles = 2 * np.pi * wings / n_wings + 0.4 * np.exp(points[:, 0])
    cosines, sines = np.cos(angles), np.sin(angles)
    X = np.stack(
        [
            cosines * points[:, 0] - sines * points[:, 1],
            sines * points[:, 0] + cosines * points[:, 1],
        ],
        1,
    )
    return X, wings


def main(path):
    X, _ = pinwheel(np.random.RandomState(0))
    X_test, wings_test = pinwheel(np.random.RandomState(1))
    model = FlowMixture(n_components=5, random_state=0).fit(X)
    index = adjusted_rand_score(wings_test, model.predict(X_test))
    print(f"held-out log-likelihood {model.score(X_test):.3f} nats, ARI {index:.3f}")

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    axes[0].scatter(*X.T, s=3, color="grey")
    axes[0].set_title("Data, without labels")
    samples, component = model.sample(2560, random_state=0)
    axes[1].scatter(*samples.T, c=component, s=3, cmap="tab10", vmin=0, vmax=9)
    axes[1].set_title("Samples of the five flows")
    side = np.linspace(-2.25, 2.25, 300)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    shares = model.predict_proba(grid)
    colours = shares @ plt.get_cmap("tab10")(np.arange(5))[:, :3]
    extent = (-2.25, 2.25, -2.25, 2.25)
    image = colours.reshape(300, 300, 3)
    axes[2].imshow(image, origin="lower", extent=extent, alpha=0.7)
    axes[2].scatter(*X.T, s=1, color="black")
    axes[2].set_title("Regions of the posterior p(z|x)")
    for ax in axes:
        ax.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    figure.savefig(path, dpi=120)
    print(f"Saved {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="pinwheel.png")
    main(parser.parse_args().output)
