"""
Look at a density
=================

A `FlowMixture` is a density. This example plots densities of two, four and one columns,
and the training history of a fit.
"""

# %%
# Two columns
# -----------
#
# Contours enclose 50, 80, 95 and 99 % of the model's probability; colours show the
# regions of the components.

from sklearn.datasets import load_iris, make_moons

from skflowmix import (
    DensityDisplay,
    FlowMixture,
    ResponsibilityDisplay,
    SamplesDisplay,
    TrainingHistoryDisplay,
)

quick = {"tol": 0.01, "n_iter_no_change": 3, "random_state": 0}
moons, _ = make_moons(600, noise=0.08, random_state=0)
model = FlowMixture(n_components=2, **quick).fit(moons)
DensityDisplay.from_estimator(model, moons)
print(f"log-likelihood {model.score(moons):.2f} nats per row")

# %%
# Rows can be drawn from the density, also from one component.

SamplesDisplay.from_estimator(model, moons)
rows, component = model.sample(5, component=1, random_state=0)
print(rows)

# %%
# How the fit went
# ----------------
#
# Training starts with the M-step, with the responsibilities of the first partition held
# fixed. Then follow the evidence lower bound and a few epochs on all rows.

TrainingHistoryDisplay.from_estimator(model)

# %%
# The amortised posterior q(z|x), a small network, is close to the exact
# responsibilities.

ResponsibilityDisplay.from_estimator(model, moons)

# %%
# More columns, and one
# ---------------------
#
# With more than two columns, rows are compared with samples for each pair of columns.
# Note that the rows are rounded to millimetres.

iris = load_iris(as_frame=True).data
flowers = FlowMixture(n_components=3, **quick).fit(iris)
DensityDisplay.from_estimator(flowers, iris)

# %%
# With one column the plot is a curve, here with two components.

length = load_iris(as_frame=True).data[["sepal length (cm)"]]
curve = FlowMixture(n_components=2, n_transforms=0, random_state=0).fit(length)
DensityDisplay.from_estimator(curve, length)
