"""Ray's processes that declare GPUs: each takes several models, and shares tensors with the others.

Ray starts a new process for each task on a GPU, also where the GPU exists in name only.
"""

import pytest

SCRIPT = r"""
import os
from functools import partial
from pathlib import Path

import ray
import torch

from fleet import workers
from fleet.engine import Outcome
from fleet.options import FleetOptions
from fleet.workers import in_workers
from storage.names import ModelName

NAMES = [ModelName("shadow", number) for number in range(8)]
NOTES = Path(os.environ["NOTES"])


def is_mapped(tensor):  # from memory that processes share
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(bound, 16) for bound in line.split(" ", 1)[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return line.split()[1].endswith("s")


def work(pool, rows, name):
    (NOTES / f"{name.number}-{os.getpid()}").touch()
    if name.number == 4:
        raise KeyError("an error")
    if name.number == 5:
        os._exit(9)  # each time that it is tried
    assert is_mapped(pool)
    assert not is_mapped(pool.clone())
    assert all(is_mapped(row) for row in rows)
    assert torch.equal(pool, make_pool())
    assert torch.equal(torch.stack(rows), make_pool() % 3 == 0)
    return Outcome(name, "finished", 0.1)


def make_pool():
    return torch.arange(20 * 50_000).view(20, 50_000)


if __name__ == "__main__":
    workers.RETRIES = 1
    ray.init(
        "local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )
    fleet, lines = FleetOptions(workers=2, gpus_per_model=0.5), []
    print(workers.idle_gpus(FleetOptions(workers=2)), workers.idle_gpus(fleet), sep="\n")
    job = partial(work, make_pool(), list(make_pool() % 3 == 0))
    begin = lambda name: lines.append(f"begin {name.number}")
    for outcome in in_workers(job, fleet, 1, NAMES, begin):
        lines.append(f"{outcome.state} {outcome.name.number} {outcome.reason}")
    (NOTES / "lines").write_text("\n".join(lines))
"""


@pytest.mark.slow
def test_a_task_on_a_gpu_takes_several_models_and_is_split_if_one_ends_it(run_script):
    notes, output = run_script(SCRIPT)
    note, none, *_ = output.splitlines()  # then Ray's daemon writes to the screen
    assert "Ray has 1 GPUs; pass `--fleet.gpus_per_model 1`" in note
    assert none == "None"
    lines = (notes / "lines").read_text().splitlines()
    assert sorted(line for line in lines if line.startswith("begin")) == [
        f"begin {number}" for number in range(8)
    ]
    ended = {line.split()[1]: line for line in lines if not line.startswith("begin")}
    assert all(lines.index(f"begin {number}") < lines.index(end) for number, end in ended.items())
    assert ended.pop("4") == "failed 4 KeyError: 'an error'"
    assert ended.pop("5").startswith("failed 5 given up after 1 retries: The worker died")
    assert list(ended.values()) == [f"finished {number} " for number in ended]
    assert len(ended) == 6
    pids = {number: {path.name[2:] for path in notes.glob(f"{number}-*")} for number in range(8)}
    assert pids[2] == pids[3] < pids[4]  # a task of three, then the one that raised, alone
    assert [len(pids[number]) for number in range(8)] == [1, 1, 1, 1, 2, 3, 1, 1]
    assert len(set().union(*pids.values())) == 9
