"""
Search for settings
===================

`FlowMixture` in scikit-learn's `GridSearchCV`: the number of components is chosen by
held-out log-likelihood, then by the area under the ROC curve of known outliers.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skflowmix import FlowMixture, outlier_auc_scorer

X, _ = make_moons(400, noise=0.08, random_state=0)
quick = {"flow": "maf", "tol": 0.05, "n_iter_no_change": 2, "random_state": 0}

# %%
# For a density, choose the smallest number whose score is within one standard error of
# the best (L. Breiman et al., Classification and Regression Trees, 1984). Flows are
# flexible, so the score hardly differs for larger numbers.


def within_one_standard_error(results):
    mean, n_folds = results["mean_test_score"], 3
    error = results["std_test_score"] / np.sqrt(n_folds - 1)
    best = mean.argmax()
    return int(np.flatnonzero(mean >= mean[best] - error[best])[0])


search = GridSearchCV(
    FlowMixture(**quick),
    {"n_components": [1, 2, 3]},
    cv=3,
    refit=within_one_standard_error,
)
search.fit(X)
print(search.best_params_)

results = search.cv_results_
numbers = [parameters["n_components"] for parameters in results["params"]]
figure, ax = plt.subplots(layout="constrained")
ax.errorbar(numbers, results["mean_test_score"], results["std_test_score"] / np.sqrt(2))
ax.set(xlabel="components", ylabel="held-out log-likelihood, nats", xticks=numbers)

# %%
# For anomaly scores, use `outlier_auc_scorer`. The fits do not see which rows are
# outliers.

is_outlier = np.arange(len(X)) % 20 == 0
X[is_outlier] = np.random.default_rng(0).uniform(-3, 3, (is_outlier.sum(), 2))
search = GridSearchCV(
    FlowMixture(**quick),
    {"n_components": [1, 2], "n_transforms": [0, 2]},
    scoring=outlier_auc_scorer,
    cv=StratifiedKFold(2),
)
search.fit(X, is_outlier)
print(search.best_params_, f"area under the ROC curve {search.best_score_:.3f}")
