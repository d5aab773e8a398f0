"""What processes say to each other, by threads and by `torch.distributed`."""

import pytest
import torch
import torch.distributed as dist
from processes import in_processes, outcomes_in_processes

from skflowmix.training.reducers import LocalReducer, ProcessReducer


@pytest.fixture
def group_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def exchange(reducer):
    vector = torch.full((3,), float(reducer.rank))
    reducer.mean_(vector)
    other = torch.tensor(float(reducer.rank))
    reducer.broadcast_(other)
    values = {"rank": reducer.rank}
    return vector.tolist(), float(other), reducer.broadcast(values), reducer.gather(1)


def test_two_processes():
    expected = [0.5] * 3, 0.0, {"rank": 0}, [1, 1]
    assert in_processes(2, exchange) == [expected, expected]


def test_one_process(group_of_one):
    expected = exchange(LocalReducer())
    assert expected == ([0.0] * 3, 0.0, {"rank": 0}, [1])
    assert exchange(ProcessReducer(group_of_one)) == expected


class OddError(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("X is bad"), ValueError, "In process 1: X is bad"),
        (OddError(1, 2), RuntimeError, r"In process 1: OddError: \(1, 2\)"),
    ],
)
def test_all_raise_what_one_raises(error, kind, message):
    def function(reducer):
        with reducer.together():
            if reducer.rank == 1:
                raise error
        raise AssertionError("not reached")

    for outcome in outcomes_in_processes(3, function):
        with pytest.raises(kind, match=f"^{message}$"):
            raise outcome


def test_all_get_what_the_first_does():
    def function(reducer):
        calls = []
        answer = reducer.from_first(lambda: calls.append(1) or "answer")
        with pytest.raises(TypeError, match=r"^no$"):
            reducer.from_first(lambda: fail())
        return answer, len(calls)

    def fail():
        raise TypeError("no")

    assert in_processes(2, function) == [("answer", 1), ("answer", 0)]


def test_one_process_raises_its_own_error(group_of_one):
    error = OddError(1, 2)
    with pytest.raises(OddError), LocalReducer().together():
        raise error
    with pytest.raises(RuntimeError, match="OddError"):
        with ProcessReducer(group_of_one).together():
            raise error
