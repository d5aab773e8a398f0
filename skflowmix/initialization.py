"""First responsibilities: what the mixture's components look like before training.

Every method partitions the rows with an ordinary clusterer. ``"auto"`` runs several
that fail on different data, and ranks the partitions they give.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, identity
from scipy.sparse.linalg import eigsh
from scipy.spatial.distance import pdist, squareform
from sklearn.base import clone
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import has_fit_parameter

INIT_METHODS = (
    "auto",
    "kmeans",
    "k-means++",
    "gmm",
    "spectral",
    "linkage",
    "random",
)
MAX_GRAPH_ROWS = 3000
MAX_MODEL_ROWS = 20_000
SAME_PARTITION_ARI = 0.98
GINI_THRESHOLD = 0.3


@dataclass(frozen=True, eq=False)
class Proposal:
    """A first partition of the rows.

    Attributes
    ----------
    name : str
        The method that made it.
    responsibilities : ndarray of shape (n, K)
        Non-negative, rows sum to one.
    score : float
        What `score_partition` says of it, larger is better; NaN where nothing was
        there to compare with.
    """

    name: str
    responsibilities: np.ndarray
    score: float = np.nan


def propose_partitions(
    x, sample_weight, n_components, init, random_state, n_init=1
) -> list[Proposal]:
    """Partition the rows into `n_components` groups, in one or several ways.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows, float64, identical rows merged.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.
    n_components : int
        K.
    init : {"auto", "kmeans", "k-means++", "gmm", "spectral", "linkage", "random"} \
            or scikit-learn clusterer
        How. A clusterer is cloned, never changed.
    random_state : RandomState
        The only source of randomness.
    n_init : int, default=1
        How many proposals with different seeds a random method makes. ``"auto"`` and
        ``"linkage"`` do not depend on it.

    Returns
    -------
    list of Proposal
        Never empty; from ``"auto"`` different partitions, the best one first.

    Raises
    ------
    ValueError
        If a clusterer finds more than `n_components` clusters, or the name is unknown.
    """
    n = len(x)
    name = init if isinstance(init, str) else type(init).__name__
    if isinstance(init, str) and init not in INIT_METHODS:
        raise ValueError(f"init_params must be one of {INIT_METHODS}, got {init!r}.")
    if n_components == 1:
        return [Proposal(name, np.ones((n, 1)))]
    if n <= n_components:
        return [Proposal(name, np.eye(n, n_components))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if init == "auto":
            return _ranked_candidates(x, sample_weight, n_components, random_state)
        if init == "linkage":
            n_init = 1
        if not isinstance(init, str):
            make, n_init = _from_clusterer, 1
        else:
            make = _METHODS[init]
        return [
            Proposal(name, make(x, sample_weight, n_components, random_state, init))
            for _ in range(n_init)
        ]


def nearest_mean_responsibilities(x, means) -> np.ndarray:
    """Assign each row to its nearest mean.

    Parameters
    ----------
    x : ndarray of shape (n, D)
    means : ndarray of shape (K, D)

    Returns
    -------
    ndarray of shape (n, K)
        One-hot rows.
    """
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(means)
    nearest = index.kneighbors(x, return_distance=False)[:, 0]
    return _one_hot(nearest, len(means))


def _one_hot(labels, n_components):
    responsibilities = np.zeros((len(labels), n_components))
    responsibilities[np.arange(len(labels)), labels] = 1.0
    return responsibilities


def _draw_rows(sample_weight, size, random_state):
    """Indices of at most `size` different rows, heavy rows more likely."""
    n = len(sample_weight)
    if n <= size:
        return np.arange(n)
    # Exponential races: the same law as successive draws without replacement.
    races = random_state.exponential(size=n) / sample_weight
    return np.sort(np.argpartition(races, size)[:size])


def _weighted_rows(x, sample_weight, size, random_state):
    """Rows whose plain count stands for their weight, for unweighted learners."""
    if np.ptp(sample_weight) < 1e-12:
        return x[_draw_rows(sample_weight, size, random_state)]
    n = len(x)
    drawn = random_state.choice(n, min(2 * n, size), p=sample_weight / n)
    return x[np.sort(drawn)]


class _Landmarks:
    """At most `MAX_GRAPH_ROWS` rows, their distances, and the way back to all rows."""

    def __init__(self, x, sample_weight, random_state):
        self.all_rows = x
        self.index = _draw_rows(sample_weight, MAX_GRAPH_ROWS, random_state)
        self.x = x[self.index]
        self.weight = sample_weight[self.index]
        self.distances = squareform(pdist(self.x))
        self.n = len(self.index)
        self._voters = None
        k = min(_MAX_NEIGHBORS, self.n - 1)
        near = np.argpartition(self.distances, k, axis=1)[:, : k + 1]
        near_distances = np.take_along_axis(self.distances, near, axis=1)
        order = np.lexsort((near != np.arange(self.n)[:, None], near_distances))
        self.neighbors = np.take_along_axis(near, order, axis=1)[:, 1:]
        self.neighbor_distances = np.take_along_axis(near_distances, order, 1)[:, 1:]

    def spread(self, labels, n_components):
        """Carry labels of the landmarks to all rows, by a vote of the nearest."""
        if self.n == len(self.all_rows):
            return labels
        if self._voters is None:
            self._voters = _nearest(self.x, self.all_rows, 3)
        spread = _vote(labels[self._voters], n_components)
        spread[self.index] = labels
        return spread


_MAX_NEIGHBORS = 15


def _nearest(x, queries, k):
    algorithm = "kd_tree" if x.shape[1] <= 5 else "brute"
    index = NearestNeighbors(n_neighbors=min(k, len(x)), algorithm=algorithm)
    return index.fit(x).kneighbors(queries, return_distance=False)


def _vote(labels, n_components):
    """Majority of each row of `labels`, the first column breaking ties."""
    n, k = labels.shape
    votes = np.zeros((n, n_components), dtype=np.float32)
    for column in range(k):
        votes[np.arange(n), labels[:, column]] += 1.5 if column == 0 else 1.0
    return votes.argmax(axis=1)


def _kmeans(x, sample_weight, n_components, random_state, init=None):
    rows = _draw_rows(sample_weight, MAX_MODEL_ROWS, random_state)
    model = KMeans(n_components, n_init=3, random_state=random_state)
    model.fit(x[rows], sample_weight=sample_weight[rows])
    return nearest_mean_responsibilities(x, model.cluster_centers_)


def _kmeans_seeding(x, sample_weight, n_components, random_state, init=None):
    rows = _draw_rows(sample_weight, MAX_MODEL_ROWS, random_state)
    centers, _ = kmeans_plusplus(
        x[rows],
        n_components,
        sample_weight=sample_weight[rows],
        random_state=random_state,
    )
    return nearest_mean_responsibilities(x, centers)


def _gmm(x, sample_weight, n_components, random_state, init=None):
    rows = _weighted_rows(x, sample_weight, MAX_MODEL_ROWS, random_state)
    model = GaussianMixture(n_components, reg_covar=1e-6, random_state=random_state)
    return model.fit(rows).predict_proba(x)


def _random(x, sample_weight, n_components, random_state, init=None):
    responsibilities = random_state.uniform(size=(len(x), n_components))
    return responsibilities / responsibilities.sum(axis=1, keepdims=True)


def _spectral(x, sample_weight, n_components, random_state, init=None):
    landmarks = _Landmarks(x, sample_weight, random_state)
    labels = _spectral_labels(landmarks, n_components, random_state)
    return _one_hot(landmarks.spread(labels, n_components), n_components)


def _linkage(x, sample_weight, n_components, random_state, init=None):
    landmarks = _Landmarks(x, sample_weight, random_state)
    labels = _linkage_labels(landmarks, n_components)
    return _one_hot(landmarks.spread(labels, n_components), n_components)


def _local_graph(landmarks, k=10):
    """Symmetric k-NN graph with locally scaled weights."""
    k = min(k, landmarks.neighbors.shape[1], max(2, landmarks.n // 10))
    distances = landmarks.neighbor_distances[:, :k]
    neighbors = landmarks.neighbors[:, :k]
    scale = np.maximum(distances[:, min(6, k - 1)], 1e-12)
    weights = np.exp(-(distances**2) / (scale[:, None] * scale[neighbors]))
    n = landmarks.n
    indptr = np.arange(0, n * k + 1, k)
    graph = csr_array(
        (np.maximum(weights, 1e-10).ravel(), neighbors.ravel(), indptr), shape=(n, n)
    )
    return graph.maximum(graph.T).tocsr()


def _spectral_labels(landmarks, n_components, random_state, k=10):
    graph = _local_graph(landmarks, k)
    degree = graph.sum(axis=1)
    root = 1.0 / np.sqrt(degree)
    laplacian = identity(landmarks.n, format="csr") - graph.multiply(
        root[:, None] * root[None, :]
    )
    if landmarks.n <= max(100, 2 * n_components + 2):
        _, vectors = np.linalg.eigh(laplacian.toarray())
        vectors = vectors[:, :n_components]
    else:
        # Just below zero: the matrix to factorise is positive definite.
        _, vectors = eigsh(
            laplacian.tocsc(),
            k=n_components,
            sigma=-1e-4,
            v0=random_state.uniform(-1, 1, landmarks.n),
        )
    embedding = vectors * root[:, None]
    embedding /= np.abs(embedding).max(axis=0) + 1e-300
    model = KMeans(n_components, n_init=5, random_state=random_state)
    labels = model.fit_predict(embedding, sample_weight=landmarks.weight)
    return _exactly(labels, landmarks.x, n_components, random_state)


def _spanning_tree(distances):
    """Prim's algorithm on a dense matrix: (n - 1, 2) edges and their lengths."""
    n = len(distances)
    edges = np.empty((n - 1, 2), dtype=np.intp)
    lengths = np.empty(n - 1)
    best = distances[0].copy()
    source = np.zeros(n, dtype=np.intp)
    best[0] = np.inf
    outside = np.ones(n, dtype=bool)
    outside[0] = False
    for step in range(n - 1):
        new = int(best.argmin())
        edges[step] = source[new], new
        lengths[step] = best[new]
        outside[new] = False
        row = distances[new]
        closer = (row < best) & outside
        best[closer] = row[closer]
        source[closer] = new
        best[new] = np.inf
    return edges, lengths


class _ClusterSizes:
    """Sizes of a partition's clusters, with their Gini index kept up to date."""

    def __init__(self, n):
        self.n = n
        self.n_clusters = n
        self.counts = {1: n}
        self.differences = 0

    @property
    def gini(self):
        return self.differences / (max(self.n_clusters - 1, 1) * self.n)

    def _spread(self, size):
        return sum(c * abs(s - size) for s, c in self.counts.items())

    def merge(self, a, b):
        for size in (a, b):
            self.counts[size] -= 1
            if not self.counts[size]:
                del self.counts[size]
            self.differences -= self._spread(size)
        self.differences += self._spread(a + b)
        self.counts[a + b] = self.counts.get(a + b, 0) + 1
        self.n_clusters -= 1


def _linkage_labels(landmarks, n_components, gini_threshold=GINI_THRESHOLD):
    edges, lengths = _spanning_tree(landmarks.distances)
    return _corrected_linkage(edges, lengths, n_components, gini_threshold)


def _corrected_linkage(edges, lengths, n_components, gini_threshold):
    """Single linkage that must merge the smallest cluster when sizes grow unequal.

    References
    ----------
    M. Gagolewski, M. Bartoszuk, A. Cena, *Genie: A new, fast, and outlier-resistant
    hierarchical clustering algorithm*, Information Sciences 363, 2016.
    """
    n = len(edges) + 1
    edges = edges[np.argsort(lengths, kind="stable")].tolist()
    parent = list(range(n))
    size = [1] * n
    sizes = _ClusterSizes(n)

    def find(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    used = [False] * (n - 1)
    first, cursor, cursor_size = 0, 0, 0
    for _ in range(n - n_components):
        while used[first]:
            first += 1
        e = first
        if sizes.gini > gini_threshold:
            smallest = min(sizes.counts)
            if smallest != cursor_size:
                cursor, cursor_size = first, smallest
            e = max(cursor, first)
            while used[e] or smallest not in (
                size[find(edges[e][0])],
                size[find(edges[e][1])],
            ):
                e += 1
            cursor = e
        used[e] = True
        a, b = find(edges[e][0]), find(edges[e][1])
        sizes.merge(size[a], size[b])
        parent[b] = a
        size[a] += size[b]
    roots = [find(i) for i in range(n)]
    return np.unique(roots, return_inverse=True)[1]


def _exactly(labels, x, n_components, random_state):
    """Split the largest clusters in two until there are `n_components`."""
    labels = np.unique(labels, return_inverse=True)[1]
    while (found := labels.max() + 1) < n_components:
        largest = np.flatnonzero(labels == np.bincount(labels).argmax())
        halves = KMeans(2, n_init=1, random_state=random_state).fit_predict(x[largest])
        if not halves.any():
            halves[: len(halves) // 2] = 1
        labels[largest[halves == 1]] = found
    return labels


def _from_clusterer(x, sample_weight, n_components, random_state, init):
    model = clone(init)
    parameters = model.get_params()
    if "random_state" in parameters and parameters["random_state"] is None:
        model.set_params(random_state=random_state.randint(2**31 - 1))
    if np.ptp(sample_weight) < 1e-12:
        labels = np.asarray(model.fit(x).labels_)
    elif has_fit_parameter(model, "sample_weight"):
        labels = np.asarray(model.fit(x, sample_weight=sample_weight).labels_)
    else:
        rows = _weighted_rows(x, sample_weight, 2 * len(x), random_state)
        drawn = np.asarray(model.fit(rows).labels_)
        labels = drawn[_nearest(rows, x, 1)[:, 0]]
    noise = labels < 0
    if noise.all():
        labels = np.zeros(len(x), dtype=np.intp)
    elif noise.any():
        labelled = np.flatnonzero(~noise)
        owner = _nearest(x[labelled], x[noise], 1)[:, 0]
        labels = labels.copy()
        labels[noise] = labels[labelled[owner]]
    found = len(np.unique(labels))
    if found > n_components:
        raise ValueError(
            f"The clusterer given as init_params found {found} clusters, more than "
            f"n_components={n_components}."
        )
    return _one_hot(_exactly(labels, x, n_components, random_state), n_components)


_METHODS = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_seeding,
    "gmm": _gmm,
    "spectral": _spectral,
    "linkage": _linkage,
    "random": _random,
}


def _ranked_candidates(x, sample_weight, n_components, random_state):
    landmarks = _Landmarks(x, sample_weight, random_state)
    args = (x, sample_weight, n_components, random_state)
    spectral = _spectral_labels(landmarks, n_components, random_state)
    linkage = _linkage_labels(landmarks, n_components)
    candidates = [
        ("spectral", _one_hot(landmarks.spread(spectral, n_components), n_components)),
        ("linkage", _one_hot(landmarks.spread(linkage, n_components), n_components)),
        ("gmm", _gmm(*args)),
    ]
    labels = [r[landmarks.index].argmax(axis=1) for _, r in candidates]
    agreement = np.array([[adjusted_rand_score(a, b) for a in labels] for b in labels])
    score = agreement.mean(axis=1)
    proposals = []
    kept = []
    for i in np.argsort(-score, kind="stable"):
        if all(agreement[i, j] <= SAME_PARTITION_ARI for j in kept):
            kept.append(i)
            proposals.append(Proposal(*candidates[i], float(score[i])))
    return proposals
