"""
Classify with few labels
========================

Of 900 rows, ten have a label. `FlowMixtureClassifier` learns the shape of the classes
from all rows. It is compared with scikit-learn's `SelfTrainingClassifier` and with a
classifier fitted to the ten labelled rows.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.model_selection import train_test_split
from sklearn.semi_supervised import SelfTrainingClassifier

from skflowmix import DensityDisplay, FlowMixtureClassifier, ReliabilityDisplay

X, y = make_moons(1200, noise=0.12, random_state=0)
X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)

# %%
# -1 marks rows without a label. NaN, None and NA also work.

some = np.full(len(y), -1)
for label in (0, 1):
    some[np.flatnonzero(y == label)[:5]] = label

model = FlowMixtureClassifier(tol=0.01, n_iter_no_change=3, random_state=0)
model.fit(X, some)
labelled = some != -1
gaussians = QuadraticDiscriminantAnalysis().fit(X[labelled], y[labelled])
taught = SelfTrainingClassifier(QuadraticDiscriminantAnalysis()).fit(X, some)
for name, other in (
    ("FlowMixtureClassifier, 10 labels and 890 rows without", model),
    ("self-training of Gaussians, the same", taught),
    ("Gaussians, the 10 labelled rows", gaussians),
):
    print(f"{name}: accuracy {other.score(X_test, y_test):.3f}")

# %%
# The regions of the classes, with the labelled rows as crosses.

display = DensityDisplay.from_estimator(model, X)
display.ax_.scatter(*X[labelled].T, marker="x", s=60, color="black")

# %%
# Are its probabilities reliable? Those of the densities alone are overconfident with
# few labels or many columns; `predict_proba` is calibrated.

ReliabilityDisplay.from_estimator(model, X_test, y_test)

# %%
# It is a density as well: rows that belong to no class score low, and rows of a class
# can be drawn.

print(model.score_samples([[0.0, 1.0], [5.0, 5.0]]))
rows, labels = model.sample(200, y=1, random_state=0)
plt.figure()
plt.scatter(*X.T, s=4, color="lightgrey")
plt.scatter(*rows.T, s=4)
plt.title("Rows drawn from class 1")
