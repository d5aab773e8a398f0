"""Compare FlowMixture with GaussianMixture on data that ships with scikit-learn.

Run ``python examples/quickstart.py``: it prints held-out log-likelihoods, clusters,
anomaly scores and a small grid search, and saves quickstart.png.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_moons
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skflowmix import FlowMixture


def density():
    """Print the held-out log-likelihood of 30 columns of cell measurements."""
    X = load_breast_cancer().data
    train, test = train_test_split(X, random_state=0)
    print("Breast cancer data, held-out log-likelihood in nats per row")
    for model in (
        GaussianMixture(n_components=2, random_state=0),
        FlowMixture(n_components=2, random_state=0),
    ):
        print(f"  {type(model).__name__:16s} {model.fit(train).score(test):8.2f}")


def clusters():
    """Cluster iris flowers and two moons without labels."""
    iris = load_iris(return_X_y=True)
    moons = make_moons(1000, noise=0.06, random_state=0)
    print("Adjusted Rand index of the clusters with the true ones")
    for name, (X, y), k in (("iris", iris, 3), ("moons", moons, 2)):
        for model in (
            GaussianMixture(n_components=k, random_state=0),
            FlowMixture(n_components=k, random_state=0),
        ):
            index = adjusted_rand_score(y, model.fit_predict(X))
            print(f"  {name:6s} {type(model).__name__:16s} {index:6.3f}")


def anomalies():
    """Detect malignant cells as anomalies, after training on benign cells only."""
    data = load_breast_cancer()
    benign = data.data[data.target == 1]
    train, test = train_test_split(benign, random_state=0)
    malignant = data.data[data.target == 0]
    X = np.vstack([test, malignant])
    is_anomaly = np.arange(len(X)) >= len(test)
    model = FlowMixture(n_components=2, random_state=0).fit(train)
    auc = roc_auc_score(is_anomaly, -model.score_samples(X))
    print(f"Anomaly detection, area under the ROC curve: {auc:.3f}")


def pipeline_and_search():
    """Cluster in a pipeline, and choose the family of flows by held-out score."""
    X, y = load_wine(return_X_y=True)
    pipeline = make_pipeline(
        StandardScaler(), PCA(5), FlowMixture(n_components=3, random_state=0)
    )
    index = adjusted_rand_score(y, pipeline.fit_predict(X))
    print(f"Pipeline of scaling, PCA and FlowMixture on wine: ARI {index:.3f}")
    moons, _ = make_moons(400, noise=0.06, random_state=0)
    search = GridSearchCV(
        FlowMixture(n_components=2, random_state=0),
        {"flow": ["realnvp", "nsf-ar"]},
        cv=3,
    ).fit(moons)
    for parameters, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        print(f"  {parameters}: held-out log-likelihood {score:.3f}")
    print(f"Grid search chose {search.best_params_}")


def figure(path):
    """Plot the log-density and the clusters of both models on two moons."""
    X, _ = make_moons(1000, noise=0.06, random_state=0)
    test, _ = make_moons(1000, noise=0.06, random_state=1)
    x, y = np.linspace(-1.6, 2.6, 300), np.linspace(-1.1, 1.6, 200)
    grid = np.stack(np.meshgrid(x, y), -1)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for ax, model in zip(
        axes,
        (
            GaussianMixture(n_components=2, random_state=0),
            FlowMixture(n_components=2, random_state=0),
        ),
        strict=True,
    ):
        model.fit(X)
        log_prob = model.score_samples(grid.reshape(-1, 2)).reshape(grid.shape[:2])
        shades = ax.contourf(
            x, y, np.maximum(log_prob, -9), levels=np.linspace(-9, 1, 21), cmap="Blues"
        )
        ax.scatter(*X.T, c=model.predict(X), s=4, cmap="coolwarm", vmin=0, vmax=1)
        title = f"{type(model).__name__}: held-out log-likelihood"
        ax.set_title(f"{title} {model.score(test):.2f}")
    figure.colorbar(shades, ax=axes, label="log p(x) in nats, floored at -9")
    figure.savefig(path, dpi=120)
    print(f"Saved {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="quickstart.png")
    arguments = parser.parse_args()
    density()
    clusters()
    anomalies()
    pipeline_and_search()
    figure(arguments.output)
