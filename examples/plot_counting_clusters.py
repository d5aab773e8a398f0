"""
Count clusters
==============

With ``n_components="auto"``, two groups of rows are different clusters only if a valley
of the density separates them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_blobs, make_circles, make_moons

from skflowmix import ComponentCountDisplay, DensityDisplay, FlowMixture

quick = {"tol": 0.01, "n_iter_no_change": 3, "random_state": 0}
moons = make_moons(500, noise=0.06, random_state=0)[0]
circles = make_circles(500, factor=0.4, noise=0.05, random_state=0)[0]
blobs = make_blobs(500, centers=4, cluster_std=0.6, random_state=3)[0]

figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
for ax, name, X in zip(
    axes, ("moons", "circles", "blobs"), (moons, circles, blobs), strict=True
):
    model = FlowMixture("auto", **quick).fit(X)
    DensityDisplay.from_estimator(model, X, ax=ax)
    ax.set_title(f"{name}: {model.n_components_} clusters")
    print(name, model.n_components_, np.bincount(model.labels_))

# %%
# The valleys of the density between groups of the blobs. Valleys left of the line are
# deeper than expected by chance.

ComponentCountDisplay.from_estimator(model)

# %%
# Counting needs enough rows in each cluster and a valley between clusters. How many
# standard deviations apart do two Gaussians have to be, to count as two?

from sklearn.mixture import GaussianMixture  # noqa: E402

for distance in (3.0, 4.0):
    X = make_blobs(400, centers=[[0, 0], [distance, 0]], random_state=0)[0]
    count = FlowMixture("auto", n_transforms=0, random_state=0).fit(X).n_components_
    bic = [GaussianMixture(k, random_state=0).fit(X).bic(X) for k in (1, 2, 3)]
    print(f"{distance} apart: {count}, by the BIC of Gaussians {1 + np.argmin(bic)}")
