"""Several models at once, by Ray: on this machine or on a cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from fleet.engine import Outcome, Work
from fleet.options import FleetOptions
from storage.names import ModelName

RETRIES = 3  # of a model whose process died; it goes on from its last checkpoint


def connect(fleet: FleetOptions, threads: int) -> None:
    """Start Ray on this machine, or reach the cluster.

    Args:
        fleet: how many models at once, on which share of a GPU, on which cluster.
        threads: CPU threads of each.

    Raises:
        ValueError: there are too few CPUs or GPUs.
        ConnectionError: there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = import_module("ray")  # an extra; `FleetOptions` has checked that it is there
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if fleet.address:
        ray.init(fleet.address, **quiet)
    else:
        ray.init("local", num_cpus=fleet.workers * threads, include_dashboard=False, **quiet)
    there = ray.cluster_resources()
    for kind, each in (("CPU", threads), ("GPU", fleet.gpus_per_model)):
        if each * fleet.workers > there.get(kind, 0):
            ray.shutdown()
            raise ValueError(
                f"{fleet.workers} models at once need {each * fleet.workers:g} {kind}s, Ray has "
                f"{there.get(kind, 0):g}. Lower `--fleet.workers`"
                + (", or lower or leave out `--fleet.gpus_per_model`." if kind == "GPU" else ".")
            )


def in_workers(
    names: Sequence[ModelName],
    work: Work,
    begin: Callable[[ModelName], None],
    fleet: FleetOptions,
    threads: int,
) -> Iterator[Outcome]:
    """Work on `fleet.workers` models at once, each in a process of Ray's.

    Ray must be connected. A process that dies is replaced, and its model goes on from its last
    epoch.

    Args:
        names: the models.
        work: what to do with each; it is copied to the processes, with all that it holds.
        begin: told of each.
        fleet: how many at once, on which share of a GPU, on which cluster.
        threads: CPU threads of each.

    Yields:
        What became of each, as they end.
    """
    ray: Any = import_module("ray")
    try:
        remote = ray.remote(num_cpus=threads, num_gpus=fleet.gpus_per_model, max_retries=RETRIES)(
            _work
        )
        shared = ray.put(work)
        waiting, running = deque(names), dict[Any, ModelName]()
        while waiting or running:
            while waiting and len(running) < fleet.workers:
                name = waiting.popleft()
                begin(name)
                running[remote.remote(shared, name, threads)] = name
            (ended,), _ = ray.wait(list(running))
            name = running.pop(ended)
            try:
                yield ray.get(ended)
            except ray.exceptions.RayError as error:
                if cause := getattr(error, "cause", None):
                    said = f"{type(cause).__name__}: {cause}"
                else:  # its process died
                    said = f"given up after {RETRIES} retries: {str(error).strip().splitlines()[0]}"
                yield Outcome(name, "failed", 0.0, said)
    finally:
        ray.shutdown()


def _work(work: Work, name: ModelName, threads: int) -> Outcome:
    torch.set_num_threads(threads)
    rank_zero_only.rank = 0  # type: ignore[attr-defined]  # not that of the job Ray was started in
    return work(name)
