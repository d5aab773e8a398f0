"""Models as files: the same after a round trip, refused where anything was changed."""

import os
import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file
from sklearn import config_context
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from small_models import answers, make, moons, small

import skflowmix
from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
    ModelFileError,
)
from skflowmix.files import FORMAT_VERSION
from skflowmix.model.flows import FLOWS, FlowFamily

LABELS = np.where(np.arange(len(moons())) % 3, moons()[:, 0] > 0.5, -1)
WORDS = np.array(["no", "yes"], dtype=object)[LABELS.clip(0)]
WORDS[LABELS < 0] = -1
NETWORKS = {"hidden_units": (8,), "posterior_units": (8,), "max_iter": 3}


def round_trip(model, folder):
    path = folder / "model.safetensors"
    skflowmix.save(model, path)
    return skflowmix.load(path)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("n_transforms", [0, 2])
def test_a_mixture_is_the_same(flow, n_transforms, tmp_path):
    model = small(3, flow=flow, n_transforms=n_transforms).fit(moons())
    again = round_trip(model, tmp_path)
    assert repr(again) == repr(model)
    expected = answers(model, moons())
    for name, answer in answers(again, moons()).items():
        assert_array_equal(answer, expected[name])
    assert_array_equal(again.sample(5)[0], model.sample(5)[0])
    assert again.history_ == model.history_
    assert vars(again).keys() == vars(model).keys()
    refitted = again.fit(moons()).score_samples(moons())
    assert_array_equal(refitted, model.fit(moons()).score_samples(moons()))


def test_a_mixture_of_several_flows_per_component_is_the_same(tmp_path):
    model = small(2, n_flows_per_component=3).fit(moons())
    again = round_trip(model, tmp_path)
    expected = answers(model, moons())
    for name, answer in answers(again, moons()).items():
        assert_array_equal(answer, expected[name])
    assert_array_equal(again.flow_components_, model.flow_components_)
    assert_array_equal(
        again.sample(20, random_state=0)[0], model.sample(20, random_state=0)[0]
    )


def dates(unit, kind="datetime64"):
    return np.array([1, 2, 3], dtype=f"{kind}[{unit}]")[LABELS]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        WORDS,
        dates("ns"),
        pytest.param(dates("D"), marks=pytest.mark.slow),
        pytest.param(dates("Y", "timedelta64"), marks=pytest.mark.slow),
    ],
    ids=["numbers", "words", "instants", "days", "durations"],
)
def test_a_classifier_is_the_same(labels, tmp_path):
    model = make(FlowMixtureClassifier, 2, random_state=0, **NETWORKS)
    again = round_trip(model.fit(moons(), labels), tmp_path)
    assert_array_equal(again.predict_proba(moons()), model.predict_proba(moons()))
    assert_array_equal(again.predict(moons()), model.predict(moons()))
    assert_array_equal(again.classes_, model.classes_)
    assert again.classes_.dtype == model.classes_.dtype


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_detector_is_the_same(tmp_path):
    model = make(FlowMixtureOutlierDetector, random_state=0, **NETWORKS).fit(moons())
    again = round_trip(model, tmp_path)
    assert_array_equal(
        again.decision_function(moons()), model.decision_function(moons())
    )


def test_names_of_columns_and_other_parameters_are_kept(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(moons(), columns=["left", "right"])
    random_state = np.random.RandomState(3)
    options = FlowMixtureOptions(n_iter_init=1, posterior_units=4)
    model = FlowMixture(
        2,
        max_iter=1,
        tol=np.inf,
        means_init=np.eye(2),
        options=options,
        random_state=random_state,
    )
    model.set_params(tol=1e3, n_iter_no_change=1, max_iter=8)
    again = round_trip(model.fit(table), tmp_path)
    assert_array_equal(again.feature_names_in_, ["left", "right"])
    assert_array_equal(again.means_init, np.eye(2))
    assert again.options.posterior_units == 4
    assert again.random_state.randint(10**9) == random_state.randint(10**9)
    with pytest.raises(ValueError, match="feature names"):
        again.predict(table[["right", "left"]])


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ValueError, match=r"FlowMixture\.init_params is KMeans"):
        skflowmix.save(small(2, init_params=KMeans(2)), path)
    family = FlowFamily(*FLOWS["maf"])
    with pytest.raises(ValueError, match=r"FlowMixture\.flow"):
        skflowmix.save(small(flow=family), path)
    with pytest.raises(TypeError, match=r"KMeans\.$"):
        skflowmix.save(KMeans(2), path)
    with pytest.raises(TypeError, match=r"got Pipeline\. Save its last step"):
        skflowmix.save(make_pipeline(small(2)), path)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        skflowmix.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"folder.* not exist.*no folder'$"):
        skflowmix.save(small(), tmp_path / "no folder" / "model")
    for act in (skflowmix.load, lambda path: skflowmix.save(small(), path)):
        for path, error in (
            (tmp_path, IsADirectoryError),
            ("", ValueError),
            (None, TypeError),
        ):
            with pytest.raises(error, match="path must be the name of a file"):
                act(path)


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "model"
    skflowmix.save(small(2), path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("skflowmix.files.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        skflowmix.save(small(3), path)
    assert skflowmix.load(path).n_components == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "model"
    skflowmix.save(small(2).fit(moons()), path)
    return path.read_bytes()


def flipped(content, bits):
    changed = bytearray(content)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_files_are_refused(written, tmp_path_factory, data):
    """Flipped bits, cut ends, headers of any declared size."""
    kind = data.draw(st.sampled_from(["bits", "cut", "size", "header"]))
    if kind == "bits":
        bits = st.integers(0, 8 * len(written) - 1)
        content = flipped(written, data.draw(st.sets(bits, min_size=1, max_size=3)))
    elif kind == "cut":
        content = written[: data.draw(st.integers(0, len(written) - 1))]
    elif kind == "size":
        size = data.draw(st.integers(0, 2**64 - 1))
        content = size.to_bytes(8, "little") + written[8:]
    else:
        length = int.from_bytes(written[:8], "little")
        place = data.draw(st.integers(8, 7 + length))
        letter = bytes([data.draw(st.integers(0, 255))])
        content = written[:place] + letter + written[place + 1 :]
    if content == written:
        return
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        skflowmix.load(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b"text", b"\x80\x04N.", bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="file"):
            skflowmix.load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="no model"):
        skflowmix.load(path)
    assert issubclass(ModelFileError, ValueError)


def test_later_versions_are_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "model"
    monkeypatch.setattr("skflowmix.files.FORMAT_VERSION", 2)
    skflowmix.save(small(), path)
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match=r"version 2 .* Update skflowmix"):
        skflowmix.load(path)


def test_other_tools_can_read_the_arrays(tmp_path):
    path = tmp_path / "model.safetensors"
    model = small(2).fit(moons())
    skflowmix.save(model, path)
    arrays = load_file(path)
    (means,) = (array for name, array in arrays.items() if name.endswith(".means_"))
    assert_array_equal(means, model.means_)


def test_a_file_runs_no_code():
    assert "pickle" not in vars(sys.modules["skflowmix.files"])
    assert "pickle" not in vars(sys.modules["skflowmix.persistence"])


def test_equal_fits_are_equal_to_tools_that_compare_them():
    one, other = (small(2).fit(moons()) for _ in range(2))
    assert joblib.hash(one) == joblib.hash(other)
    assert joblib.hash(one) != joblib.hash(small(2, random_state=1).fit(moons()))


def test_byte_order_and_scalars_do_not_matter(tmp_path):
    starts = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=">f8")
    scalars = {"warm_start": np.True_, "tol": np.longdouble(0.25)}
    again = round_trip(small(np.int64(2), means_init=starts, **scalars), tmp_path)
    assert_array_equal(again.means_init, starts)
    assert (again.n_components, again.warm_start, again.tol) == (2, True, 0.25)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_can_read_a_file_as_the_umask_says(tmp_path):
    path, ordinary = tmp_path / "model", tmp_path / "ordinary"
    ordinary.touch()
    skflowmix.save(small(), path)
    assert path.stat().st_mode == ordinary.stat().st_mode
    path.chmod(0o600)
    skflowmix.save(small(), path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_requests_of_metadata_are_no_part_of_a_file(tmp_path):
    model = small(2)
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
        assert repr(round_trip(model, tmp_path)) == repr(model)


def test_another_bit_generator_is_refused(tmp_path):
    random_state = np.random.RandomState(np.random.PCG64(0))
    with pytest.raises(ValueError, match=r"FlowMixture\.random_state"):
        skflowmix.save(small(random_state=random_state), tmp_path / "model")


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize("name", ["mixture", "classifier", "detector"])
def test_files_of_all_versions_of_the_format_are_read(version, name):
    folder = Path(__file__).parent / "model_files"
    model = skflowmix.load(folder / f"{name}_{version}.safetensors")
    kept = np.load(folder / f"answers_{version}.npz")
    methods = [key.split()[1] for key in kept if key.startswith(name)]
    assert len(methods) == (2 if name == "detector" else 3)
    for method in methods:
        answer, expected = (
            getattr(model, method)(kept["rows"]),
            kept[f"{name} {method}"],
        )
        if method == "predict":
            assert_array_equal(answer, expected)
        else:
            assert_allclose(answer, expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("options", [None, FlowMixtureOptions(posterior_units=[8])])
@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_what_was_loaded_has_the_hash_of_what_was_saved(cls, options, tmp_path):
    model = cls(max_iter=2, hidden_units=(8, 8), options=options, random_state=0)
    model.fit(moons(), np.arange(len(moons())) % 2)
    assert joblib.hash(round_trip(model, tmp_path)) == joblib.hash(model)


def test_equal_models_have_equal_files(tmp_path):
    """The order of a file's metadata is not left to chance."""
    model = small(2).fit(moons())
    contents = set()
    for i in range(6):
        skflowmix.save(model, tmp_path / f"{i}")
        contents.add((tmp_path / f"{i}").read_bytes())
    assert len(contents) == 1


def test_attributes_have_one_layout_in_memory():
    model = small(2, n_flows_per_component=2).fit(moons())
    assert joblib.hash(pickle.loads(pickle.dumps(model))) == joblib.hash(model)


@pytest.mark.skipif(os.name != "posix", reason="files with holes")
def test_a_file_is_not_read_beyond_what_its_header_says(tmp_path):
    """Here the rest would not fit in memory."""
    path = tmp_path / "model"
    skflowmix.save(small(2, n_transforms=0).fit(moons()), path)
    with path.open("r+b") as file:
        file.truncate(2**38)
    empty = tmp_path / "empty"
    with empty.open("wb") as file:
        file.truncate(2**38)
    for name in (path, empty):
        with pytest.raises(ModelFileError, match="damaged"):
            skflowmix.load(name)
