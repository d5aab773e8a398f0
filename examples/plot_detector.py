"""
Detect outliers
===============

The training rows contain outliers, and some of these lie close together. A flexible
density learns such a group. `FlowMixtureOutlierDetector` adds a second density,
estimated by the distance to a wide neighbourhood, in which the group stays rare.
"""

import numpy as np
from sklearn.datasets import make_moons
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from skflowmix import AnomalyScoreDisplay, FlowMixture, FlowMixtureOutlierDetector


def rows(seed, n_rows=600):
    """Draw two moons with 5 % uniform outliers and 3 % outliers in a tight group."""
    generator = np.random.default_rng(seed)
    X, _ = make_moons(n_rows, noise=0.06, random_state=seed)
    is_outlier = np.arange(n_rows) < 0.08 * n_rows
    X[: n_rows // 20] = generator.uniform(-3, 3, (n_rows // 20, 2))
    group = np.flatnonzero(is_outlier)[n_rows // 20 :]
    X[group] = generator.normal([0.5, -1.7], 0.05, (len(group), 2))
    return X, is_outlier


X, is_outlier = rows(0)
X_new, is_outlier_new = rows(1)

# %%
# The share of outliers, `contamination`, sets the threshold. Low scores are outliers.

quick = {"tol": 0.01, "n_iter_no_change": 3, "random_state": 0}
detector = FlowMixtureOutlierDetector(2, contamination=0.08, **quick).fit(X)
marks = detector.predict(X_new)  # 1 for inliers, -1 for outliers
print(f"{(marks == -1).sum()} of {len(marks)} new rows are marked as outliers")
AnomalyScoreDisplay.from_estimator(detector, X, X_new, y_new=is_outlier_new)

# %%
# The marked rows, and the region within the threshold.

from sklearn.inspection import DecisionBoundaryDisplay  # noqa: E402

display = DecisionBoundaryDisplay.from_estimator(
    detector, X, response_method="predict", alpha=0.3, cmap="cividis"
)
display.ax_.scatter(*X_new.T, s=6, c=np.where(marks == -1, "#D55E00", "#0072B2"))
display.ax_.set_title("New rows marked as outliers, in orange")

# %%
# How well the scores separate outliers from inliers: the area under the ROC curve.

for name, other in (
    ("FlowMixtureOutlierDetector", detector),
    ("FlowMixture, the density alone", FlowMixture(2, **quick).fit(X)),
    ("IsolationForest", IsolationForest(random_state=0).fit(X)),
):
    auc = roc_auc_score(is_outlier_new, -other.score_samples(X_new))
    print(f"{name}: {auc:.3f}")
