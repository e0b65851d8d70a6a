"""What Ray is asked for, and what its processes do first, without Ray's processes."""

import os
import signal
import socket

import pytest
import ray
import torch

from fleet import ray_store, workers
from fleet.engine import Outcome
from fleet.options import FleetOptions
from fleet.workers import Queue, check_places, connect, idle_gpus
from storage.names import ModelName

NAMES = [ModelName("shadow", number) for number in range(12)]


@pytest.mark.parametrize(
    ("seconds", "gpus", "tasks"),
    [
        ([], 1.0, [1, 1, 1]),  # nothing is known yet
        ([9.0, 11.0], 1.0, [6, 3, 2]),  # a minute's worth, then a fair share
        ([40.0], 0.5, [1, 1, 1]),
        ([0.001], 0.25, [6, 3, 2]),
        ([0.001], 0.0, [1, 1, 1]),  # Ray's processes without a GPU stay
    ],
)
def test_a_task_is_a_minute_of_models_but_at_most_a_fair_share(seconds, gpus, tasks):
    queue = Queue(NAMES, FleetOptions(workers=2, gpus_per_model=gpus))
    queue.seconds += seconds
    taken = [queue.take() for _ in tasks]
    assert [len(names) for names in taken] == tasks
    assert [name for names in taken for name in names] == NAMES[: sum(tasks)]
    assert len(queue) == 12 - sum(tasks)


def test_what_may_have_ended_a_process_is_tried_first_and_alone():
    queue = Queue(NAMES[:6], FleetOptions(workers=2, gpus_per_model=1.0))
    queue.seconds.append(1.0)
    suspects = queue.take()
    queue.suspects += suspects
    assert len(queue) == 6
    assert [queue.take() for _ in range(4)] == [*([name] for name in suspects), NAMES[3:5]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 6)])
def test_tensors_come_back_from_memory_that_cannot_be_written(rng, dtype, shape):
    tensor = torch.randint(2, shape, generator=rng).to(dtype)
    content, *rest = ray_store._to_bytes(tensor)
    content.flags.writeable = False
    again = ray_store._to_tensor((content, *rest))  # a warning would fail
    assert again.dtype == dtype
    assert torch.equal(again, tensor)
    assert again.data_ptr() == tensor.data_ptr()


def test_a_view_takes_no_more_than_its_own_bytes():
    rows = torch.zeros(10, 100, dtype=torch.bool)
    assert ray_store._to_bytes(rows[3])[0].nbytes == 100
    assert ray_store._to_bytes(rows.T[3])[0].nbytes == 10


@pytest.mark.parametrize(("share", "hidden"), [(0.0, True), (0.25, False), (1.0, False)])
def test_a_worker_keeps_to_its_share_of_a_gpu(monkeypatch, share, hidden):
    shares, threads = [], torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    ended = workers._work(lambda name: Outcome(name, "finished", 1.0), NAMES[:2], threads, share)
    assert [outcome.name for outcome in ended] == NAMES[:2]
    assert shares == ([share] if 0 < share < 1 else [])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if hidden else "3")


NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 1.0}]


@pytest.mark.parametrize(
    ("count", "gpus", "threads", "error"),
    [
        (12, 0.0, 1, None),
        (13, 0.0, 1, "13 models at once need 13 CPUs, Ray has 12. Lower `--fleet.workers`.$"),
        (5, 0.0, 2, None),
        (6, 0.0, 2, "6 models at once need 2 CPUs and 0 GPUs each on one node.*room for 5. Lower"),
        (5, 1.0, 1, None),
        (6, 1.0, 1, "room for 5"),  # the second node has 4 GPUs and 3 CPUs
        (
            7,
            1.0,
            1,
            "7 models at once need 7 GPUs, Ray has 6. .*out `--fleet.gpus_per_model`",
        ),
        (9, 0.3, 1, None),  # 3 on each of two GPUs, and 3 CPUs
        (10, 0.3, 1, "room for 9"),
        (5, 0.6, 1, None),
    ],
)
def test_workers_for_which_no_node_has_room_are_refused(count, gpus, threads, error):
    fleet = FleetOptions(workers=count, gpus_per_model=gpus)
    if error is None:
        check_places(NODES, fleet, threads)
    else:
        with pytest.raises(ValueError, match=error):
            check_places(NODES, fleet, threads)


def test_gpus_that_nobody_uses_are_named(monkeypatch):
    nodes = [{"Alive": True, "Resources": node} for node in NODES]
    dead = {"Alive": False, "Resources": {"GPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, dead])
    note = idle_gpus(FleetOptions(workers=2))
    assert note.startswith("Note: ")
    assert "Ray has 6 GPUs; pass `--fleet.gpus_per_model 1`" in note
    assert idle_gpus(FleetOptions(workers=2, gpus_per_model=0.5)) is None
    monkeypatch.setattr(ray, "nodes", lambda: nodes[2:])
    assert idle_gpus(FleetOptions(workers=2)) is None


def test_an_address_at_which_nothing_listens_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("connected"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens
        address = "{}:{}".format(*closed.getsockname())
        with pytest.raises(
            ConnectionError, match=f"--fleet.address {address}`.* `ray start --head`"
        ):
            connect(FleetOptions(address=address), 1)


@pytest.mark.parametrize(
    ("raised", "error", "text"),
    [
        (SystemExit(signal.SIGTERM), KeyboardInterrupt, "^$"),
        (RuntimeError("Version mismatch: 2.40"), ValueError, "Ray cannot start: Version mismatch"),
    ],
)
def test_what_ends_the_start_of_ray_is_not_a_traceback(monkeypatch, raised, error, text):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(error, match=text):
        connect(FleetOptions(address="auto"), 1)


def test_a_cluster_without_room_is_left_again(monkeypatch):
    left = []
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    monkeypatch.setattr(workers, "stop_at_sigterm", lambda: None)
    for name, value in {
        "init": lambda *_, **__: None,
        "nodes": lambda: nodes,
        "shutdown": lambda: left.append("shutdown"),
    }.items():
        monkeypatch.setattr(ray, name, value)
    connect(FleetOptions(workers=2), 1)
    assert not left
    with pytest.raises(ValueError, match="3 models at once need 3 CPUs, Ray has 2"):
        connect(FleetOptions(workers=3), 1)
    assert left == ["shutdown"]
