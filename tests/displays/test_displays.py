"""Displays: what is drawn, where, and what they refuse."""

import copy
import sys

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import make, moons, small

import skflowmix
from skflowmix import (
    AnomalyScoreDisplay,
    ComponentCountDisplay,
    DensityDisplay,
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOutlierDetector,
    ReliabilityDisplay,
    ResponsibilityDisplay,
    SamplesDisplay,
    TrainingHistoryDisplay,
)
from skflowmix.displays.canvas import limits_of, rows_to_draw, wrap_name

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NETWORKS = {
    "hidden_units": 4,
    "posterior_units": 4,
    "n_transforms": 1,
    "max_iter": 2,
    "n_iter_init": 1,
    "init_params": "kmeans",
    "random_state": 0,
}
LABELS = np.where(moons()[:, 0] > 0.5, "yes", "no")
THREE = np.c_[moons(), moons()[:, :1] ** 2]
FRAME = pd.DataFrame(THREE, columns=["width", "height", "depth"])


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def mixture():
    return small(2).fit(moons())


@pytest.fixture(scope="module")
def framed():
    return small(2).fit(FRAME)


@pytest.fixture(scope="module")
def classifier():
    return make(FlowMixtureClassifier, **NETWORKS).fit(moons(), LABELS)


@pytest.fixture(scope="module")
def detector():
    return make(FlowMixtureOutlierDetector, **NETWORKS).fit(moons())


def each_display(mixture, classifier, detector):
    """Return a function for each display that draws it on given axes."""
    return {
        "density": lambda ax: DensityDisplay.from_estimator(mixture, moons(), ax=ax),
        "samples": lambda ax: SamplesDisplay.from_estimator(mixture, moons(), ax=ax),
        "history": lambda ax: TrainingHistoryDisplay.from_estimator(mixture, ax=ax),
        "responsibilities": lambda ax: ResponsibilityDisplay.from_estimator(
            mixture, moons(), ax=ax
        ),
        "scores": lambda ax: AnomalyScoreDisplay.from_estimator(
            detector, moons(), ax=ax
        ),
        "reliability": lambda ax: ReliabilityDisplay.from_estimator(
            classifier, moons(), LABELS, ax=ax
        ),
    }


NAMES = ("density", "samples", "history", "responsibilities", "scores", "reliability")


@pytest.mark.parametrize("name", NAMES)
def test_a_display_is_drawn_where_it_is_told(name, mixture, classifier, detector):
    draw = each_display(mixture, classifier, detector)[name]
    own = draw(None)
    assert own.figure_.axes
    figure, (ax, other) = plt.subplots(1, 2)
    display = draw(ax)
    assert display.figure_ is figure
    single = getattr(display, "ax_", None)
    assert single is ax or (single is None and not ax.axison)
    assert other.axison and not other.has_data()
    figure.canvas.draw()
    again = plt.figure().add_subplot()
    assert display.plot(ax=again).figure_ is again.figure


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_axes_is_refused(name, mixture, classifier, detector):
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes"):
        each_display(mixture, classifier, detector)[name]("left")


@pytest.mark.parametrize("name", NAMES)
def test_a_display_changes_no_estimator(name, mixture, classifier, detector):
    models = (mixture, classifier, detector)
    before = [joblib.hash(model) for model in models]
    each_display(mixture, classifier, detector)[name](None)
    assert before == [joblib.hash(model) for model in models]


def test_displays_are_public():
    named = [name for name in skflowmix.__all__ if name.endswith("Display")]
    assert len(named) >= len(NAMES)
    for name in named:
        display = getattr(skflowmix, name)
        assert callable(display.from_estimator) and callable(display.plot)


def test_matplotlib_is_asked_for(monkeypatch, mixture):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (
        lambda: DensityDisplay.from_estimator(mixture, moons()),
        lambda: TrainingHistoryDisplay.from_estimator(mixture),
    ):
        with pytest.raises(ImportError, match=r"skflowmix\[plot\]"):
            draw()


# What cannot be drawn.


def test_wrong_estimators_are_named(mixture, detector):
    pipeline = make_pipeline(StandardScaler(), small(2))
    for wrong in (pipeline, detector, "mixture"):
        with pytest.raises(TypeError, match=f"got {type(wrong).__name__}"):
            DensityDisplay.from_estimator(wrong, moons())
    with pytest.raises(TypeError, match="FlowMixtureClassifier, got FlowMixture"):
        ReliabilityDisplay.from_estimator(mixture, moons(), LABELS)
    with pytest.raises(TypeError, match="draws a fitted FlowMixture, got"):
        ResponsibilityDisplay.from_estimator(detector, moons())
    with pytest.raises(TypeError, match="AnomalyScoreDisplay"):
        AnomalyScoreDisplay.from_estimator(pipeline, moons())


def test_estimators_that_are_not_fitted_are_refused():
    for display in (DensityDisplay, SamplesDisplay, ResponsibilityDisplay):
        with pytest.raises(NotFittedError):
            display.from_estimator(FlowMixture(), moons())
    with pytest.raises(NotFittedError):
        TrainingHistoryDisplay.from_estimator(FlowMixture())


def test_wrong_numbers_of_columns_are_refused(mixture, classifier, detector):
    with pytest.raises(ValueError, match="3 features"):
        DensityDisplay.from_estimator(mixture, THREE)
    with pytest.raises(ValueError, match="3 features"):
        SamplesDisplay.from_estimator(mixture, THREE)
    with pytest.raises(ValueError, match="3 features"):
        ResponsibilityDisplay.from_estimator(mixture, THREE)
    with pytest.raises(ValueError, match="3 features"):
        AnomalyScoreDisplay.from_estimator(detector, THREE)
    with pytest.raises(ValueError, match="3 features"):
        ReliabilityDisplay.from_estimator(classifier, THREE, LABELS)


@pytest.mark.parametrize(
    "columns",
    [[2], ["width"], [0, 0], [], [-1], [0.5], list("ab"), [True, False], True, 0.5],
)
def test_columns_have_to_exist(columns, mixture):
    with pytest.raises(ValueError, match="columns must"):
        DensityDisplay.from_estimator(mixture, moons(), columns=columns)


def test_other_parameters_are_checked(mixture, classifier, detector):
    with pytest.raises(ValueError, match="two columns"):
        SamplesDisplay.from_estimator(mixture, columns=[0])
    with pytest.raises(ValueError, match="numbers from 0 to 1, got True"):
        SamplesDisplay.from_estimator(mixture, columns=[True, False])
    with pytest.raises(ValueError, match="grid_resolution"):
        DensityDisplay.from_estimator(mixture, moons(), grid_resolution=1)
    with pytest.raises(ValueError, match="n_samples"):
        DensityDisplay.from_estimator(mixture, moons(), n_samples=0)
    with pytest.raises(ValueError, match="n_bins"):
        ReliabilityDisplay.from_estimator(classifier, moons(), LABELS, n_bins=0)
    with pytest.raises(ValueError, match="y must have a label for each"):
        ReliabilityDisplay.from_estimator(classifier, moons(), LABELS[:5])
    with pytest.raises(ValueError, match="No row has a label"):
        ReliabilityDisplay.from_estimator(classifier, moons(), [None] * len(moons()))
    for y in (np.where(LABELS == "yes", "perhaps", "no"), LABELS == "yes"):
        with pytest.raises(ValueError, match=r"y must .* \['no', 'yes'\], got"):
            ReliabilityDisplay.from_estimator(classifier, moons(), y)
    with pytest.raises(ValueError, match="y_new needs X_new"):
        AnomalyScoreDisplay.from_estimator(detector, moons(), y_new=[1])
    with pytest.raises(ValueError, match="y_new must have a mark for each"):
        AnomalyScoreDisplay.from_estimator(detector, moons(), moons(), y_new=[0, 1])
    with pytest.raises(ValueError, match="y_new must hold"):
        AnomalyScoreDisplay.from_estimator(detector, moons(), moons(), y_new=[3, 4])


def test_panels_need_a_place_in_a_grid(mixture):
    ax = plt.figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="part of a grid"):
        TrainingHistoryDisplay.from_estimator(mixture, ax=ax)
    assert ResponsibilityDisplay.from_estimator(mixture, moons(), ax=ax).ax_ is ax


# What is drawn.


def test_a_map_has_the_density_of_the_model(mixture):
    display = DensityDisplay.from_estimator(mixture, moons(), grid_resolution=20)
    (x, y), log_density = display.grid, display.log_density
    assert_allclose(log_density[3, 7], mixture.score_samples([[x[7], y[3]]])[0])
    assert display.grid_components[3, 7] == mixture.predict([[x[7], y[3]]])[0]
    assert (np.diff(display.levels) <= 0).all()
    samples, _ = mixture.sample(1000, random_state=0)
    share = (mixture.score_samples(samples) >= display.levels[1]).mean()
    assert share == pytest.approx(0.8, abs=0.01)
    assert len(display.contours_.levels) == 4
    assert display.image_.get_array().shape == (20, 20, 4)
    assert len(display.points_.get_offsets()) == len(moons())


def test_contours_end_within_the_map(mixture):
    for columns in ([0, 1], [1, 0]):
        display = DensityDisplay.from_estimator(
            mixture, moons(), columns=columns, grid_resolution=30
        )
        low, high = np.transpose([display.ax_.get_xlim(), display.ax_.get_ylim()])
        vertices = np.vstack([p.vertices for p in display.contours_.get_paths()])
        assert (vertices > low).all() and (vertices < high).all()
        density = display.log_density
        edges = [density[0], density[-1], density[:, 0], density[:, -1]]
        assert np.max(edges) < display.levels[-1]


def test_columns_of_a_map_may_change_places(mixture):
    display = DensityDisplay.from_estimator(
        mixture, moons(), columns=[1, 0], grid_resolution=20
    )
    x, y = display.grid
    expected = mixture.score_samples([[y[3], x[7]]])[0]
    assert_allclose(display.log_density[3, 7], expected)
    assert display.ax_.get_xlabel() == "column 1"
    assert_array_equal(display.rows, moons()[:, ::-1])


def test_one_column_has_a_curve():
    X = moons()[:, :1]
    model = small(2).fit(X)
    display = DensityDisplay.from_estimator(model, X)
    assert_allclose(
        np.logaddexp.reduce(display.grid_components, axis=1), display.log_density
    )
    assert len(display.ax_.lines) == 3
    assert display.ax_.patches  # of the histogram
    with pytest.raises(ValueError, match="DensityDisplay draws one column"):
        SamplesDisplay.from_estimator(model, X)


def test_more_columns_have_pairs_under_their_names(framed):
    display = DensityDisplay.from_estimator(framed, FRAME)
    assert display.ax_ is None and display.axes_.shape == (3, 3)
    assert [ax.get_xlabel() for ax in display.axes_[-1]] == list(FRAME.columns)
    below, above = display.axes_[1, 0], display.axes_[0, 1]
    drawn = [len(points.get_offsets()) for points in below.collections]
    assert sum(drawn) == len(FRAME)
    assert sum(len(points.get_offsets()) for points in above.collections) == len(FRAME)
    display.figure_.canvas.draw()
    for row in display.axes_:
        assert {ax.get_ylim() for ax in row} == {row[0].get_ylim()}
        labels = [label for label in row[0].get_yticklabels() if label.get_visible()]
        assert any(label.get_text() for label in labels)
    pair = DensityDisplay.from_estimator(framed, FRAME, columns=["depth", 0])
    assert pair.columns == ["depth", "width"] and pair.axes_.shape == (2, 2)
    one = DensityDisplay.from_estimator(framed, FRAME, columns="height")
    assert one.ax_.get_xlabel() == "height" and one.log_density is None


def test_names_of_columns_break_between_words():
    assert wrap_name("pipeline__income_total", 15) == "pipeline__\nincome_total"
    assert wrap_name("sepal length (cm)", 15) == "sepal length\n(cm)"
    assert wrap_name("pipeline__age", 15) == "pipeline__age"
    assert wrap_name("a incomprehensibilities", 15) == "a\nincomprehensib…"
    assert wrap_name("", 15) == ""


def test_names_of_columns_are_those_of_the_frame(framed):
    table = FRAME[["width", "height"]]
    model = small(2).fit(table)
    display = DensityDisplay.from_estimator(model, table, grid_resolution=10)
    assert display.ax_.get_xlabel() == "width"
    assert display.ax_.get_ylabel() == "height"
    display = SamplesDisplay.from_estimator(framed, columns=["depth", "width"])
    assert display.ax_.get_xlabel() == "depth"
    assert display.ax_.get_ylabel() == "width"


def test_classes_are_named(classifier):
    display = DensityDisplay.from_estimator(classifier, moons(), grid_resolution=10)
    assert display.component_names == ["class no", "class yes"]
    assert_array_equal(display.row_components, classifier.predict(moons()) == "yes")
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["class no", "class yes"]


def test_many_components_are_numbered():
    model = small(9, n_transforms=0).fit(moons())
    display = SamplesDisplay.from_estimator(model)
    numbers = {int(text.get_text()) for text in display.ax_.texts}
    assert numbers == set(np.unique(display.sample_components))
    assert display.ax_.get_legend() is None


def test_samples_are_those_of_the_seed(mixture):
    display = SamplesDisplay.from_estimator(mixture, n_samples=50, random_state=3)
    expected, component = mixture.sample(50, random_state=3)
    assert_array_equal(display.samples, expected)
    for k, points in enumerate(display.points_):
        assert_array_equal(points.get_offsets(), expected[component == k])


def test_a_history_has_its_phases(mixture, classifier, detector):
    for model in (mixture, classifier, detector):
        display = TrainingHistoryDisplay.from_estimator(model)
        history = getattr(model, "mixture_", model).history_
        texts = [text.get_text() for text in display.axes_[0].texts]
        assert texts == list(dict.fromkeys(record["phase"] for record in history))
        held_out = display.axes_[0].lines[1].get_ydata()
        assert_allclose(held_out, [r["validation_log_likelihood"] for r in history])
        assert len(display.axes_[1].lines) == 3 + len(texts) - 1


def test_curves_of_a_history_keep_the_width_of_their_axes(mixture):
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    display = TrainingHistoryDisplay.from_estimator(mixture, ax=axes[0])
    figure.canvas.draw()
    assert display.axes_[0].get_position().width > 0.8 * axes[1].get_position().width
    heights = {text.get_position()[1] for text in display.axes_[0].texts}
    assert len(heights) == 1
    for panel in display.axes_[:2]:
        legend = panel.get_legend().get_window_extent()
        assert panel.get_window_extent().fully_containsx(legend.x1)


def test_without_training_there_is_no_history():
    model = small(2, n_transforms=0, max_iter=0, n_iter_init=0).fit(moons())
    if not model.history_:
        with pytest.raises(ValueError, match="Nothing was trained"):
            TrainingHistoryDisplay.from_estimator(model)


def test_responsibilities_are_those_of_the_model(mixture):
    display = ResponsibilityDisplay.from_estimator(mixture, moons())
    points = display.points_[1].get_offsets()
    assert_allclose(points[:, 0], mixture.predict_proba(moons())[:, 1])
    assert_allclose(points[:, 1], mixture.posterior_proba(moons())[:, 1])
    gap = mixture.score(moons()) - mixture.elbo(moons()).mean()
    assert display.gap == pytest.approx(gap)


def test_scores_have_a_threshold_where_there_is_one(detector, mixture):
    far = moons() + 40.0
    display = AnomalyScoreDisplay.from_estimator(detector, moons(), far)
    assert display.ax_.lines[0].get_xdata()[0] == detector.offset_
    low, high = display.ax_.get_xlim()
    assert low < detector.offset_ < high
    heights = [patch.get_xy()[:, 1].max() for patch in display.ax_.patches]
    assert len(heights) == 2 and max(heights) < 1.001
    marks = np.r_[np.ones(len(far)), -np.ones(len(moons()))]
    display = AnomalyScoreDisplay.from_estimator(
        mixture, moons(), np.r_[moons(), far], y_new=marks
    )
    assert not display.ax_.lines
    assert list(display.scores) == [
        "training rows",
        "new rows, inliers",
        "new rows, outliers",
    ]
    assert len(display.scores["new rows, outliers"]) == len(far)


def test_the_first_bar_is_marked_where_it_holds_lower_scores():
    scores = -np.linspace(2, 11, 200)
    display = AnomalyScoreDisplay(scores={"rows": np.r_[scores, -26, -40]}).plot()
    (mark,) = (text.get_text() for text in display.ax_.texts)
    assert mark.startswith("≤ ")
    assert -40 < float(mark[2:].replace("\N{MINUS SIGN}", "-")) < -11
    assert not AnomalyScoreDisplay(scores={"rows": scores}).plot().ax_.texts


def test_reliability_is_in_bins_of_equal_size(classifier):
    display = ReliabilityDisplay.from_estimator(classifier, moons(), LABELS, n_bins=5)
    proba = classifier.predict_proba(moons()).max(1)
    right = classifier.predict(moons()) == LABELS
    assert list(display.curves_) == ["calibrated", "as the densities say"]
    curve = display.curves_["calibrated"]
    assert curve.shape == (5, 3)
    assert_allclose(curve[:, 0].mean(), proba.mean())
    assert_allclose(curve[:, 1].mean(), right.mean())
    surest = np.argsort(proba, kind="stable")[-30:]
    assert_allclose(curve[-1, :2], [proba[surest].mean(), right[surest].mean()])


def test_error_bars_of_a_reliability_are_shares(classifier):
    display = ReliabilityDisplay.from_estimator(classifier, moons(), LABELS)
    for container in display.axes_[0].containers:
        for bars in container[2]:
            heights = np.array(bars.get_segments())[..., 1]
            assert heights.min() >= 0 and heights.max() <= 1


def test_reliability_leaves_out_rows_without_a_label(classifier):
    some = LABELS.astype(object)
    some[::3] = None
    display = ReliabilityDisplay.from_estimator(classifier, moons(), some)
    n_labelled = len(moons()) - len(moons()[::3])
    assert {len(right) for right in display.right.values()} == {n_labelled}


def test_reliability_counts_each_curves_own_predictions(classifier):
    """Calibration of the class shares changes which class is predicted."""
    display = ReliabilityDisplay.from_estimator(classifier, moons(), LABELS)
    log_joint = classifier.predict_joint_log_proba(moons())
    for name, predicted in (
        ("calibrated", classifier.predict(moons())),
        ("as the densities say", classifier.classes_[log_joint.argmax(1)]),
    ):
        assert_array_equal(display.right[name], predicted == LABELS)


def test_few_far_values_do_not_rule_an_axis():
    values = np.r_[np.linspace(0, 1, 1000), 999.0]
    low, high = limits_of(values)
    assert low <= 0 and 1 <= high < 2
    assert limits_of(np.zeros(3)) == (-0.5, 0.5)


def test_of_many_rows_a_part_is_drawn():
    drawn = rows_to_draw(np.zeros(10_000))
    assert len(drawn) == 2000 and len(np.unique(drawn)) == 2000
    assert_array_equal(drawn, rows_to_draw(np.zeros(10_000)))
    assert_array_equal(rows_to_draw(np.zeros(5)), np.arange(5))


def test_a_count_has_its_valleys(mixture):
    path = [
        {
            "n_components": 3,
            "valley": 0.9,
            "limit": 0.6,
            "share": 0.2,
            "counted": False,
        },
        {"n_components": 2, "valley": 0.1, "limit": 0.7, "share": 0.4, "counted": True},
    ]
    ax = plt.figure().add_subplot()
    display = ComponentCountDisplay(path=path).plot(ax=ax)
    assert display.ax_ is ax and ax.get_title() == "2 clusters"
    counted, _, not_counted, limits, border = ax.lines
    assert_array_equal(counted.get_xydata(), [[2, 0.1]])
    assert_array_equal(not_counted.get_xydata(), [[3, 0.9]])
    assert_array_equal(limits.get_ydata(), [0.6])
    assert border.get_xdata()[0] == 2.5
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["counted", "not counted", "limit", "end of the counted valleys"]
    assert limits.get_zorder() > not_counted.get_zorder()
    counting = copy.copy(mixture)
    counting.n_components_path_ = path
    assert ComponentCountDisplay.from_estimator(counting).path == path
    with pytest.raises(ValueError, match="nothing to count"):
        ComponentCountDisplay.from_estimator(mixture)
    with pytest.raises(TypeError, match="draws a fitted FlowMixture, got str"):
        ComponentCountDisplay.from_estimator("auto")
