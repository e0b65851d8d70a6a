"""Several models at once in Ray's processes, on this machine or on a cluster."""

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

RETRIES = 3  # for a model whose process died; it goes on from its last checkpoint


def connect(fleet: FleetOptions, threads: int) -> None:
    """Start Ray on this machine, or connect to a cluster.

    Args:
        fleet: number of workers, each one's share of a GPU, and the cluster's address.
        threads: CPU threads per worker.

    Raises:
        ValueError: there are too few CPUs or GPUs.
        ConnectionError: there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = import_module("ray")  # an extra; `FleetOptions` has checked that it is installed
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if fleet.address:
        ray.init(fleet.address, **quiet)
    else:
        ray.init("local", num_cpus=fleet.workers * threads, include_dashboard=False, **quiet)
    resources = ray.cluster_resources()
    for kind, share in (("CPU", threads), ("GPU", fleet.gpus_per_model)):
        if share * fleet.workers > resources.get(kind, 0):
            ray.shutdown()
            raise ValueError(
                f"{fleet.workers} models at once need {share * fleet.workers:g} {kind}s, Ray has "
                f"{resources.get(kind, 0):g}. Lower `--fleet.workers`"
                + (", or lower or leave out `--fleet.gpus_per_model`." if kind == "GPU" else ".")
            )


def in_workers(
    names: Sequence[ModelName],
    work: Work,
    begin: Callable[[ModelName], None],
    fleet: FleetOptions,
    threads: int,
) -> Iterator[Outcome]:
    """Work on `fleet.workers` models at once, each in one of Ray's processes.

    Ray must be connected. A process that dies is replaced, and its model goes on from its last
    epoch.

    Args:
        names: the models.
        work: the work on one model; it is copied to the processes with everything it holds.
        begin: called with each model before work on it begins.
        fleet: number of workers, and each one's share of a GPU.
        threads: CPU threads per worker.

    Yields:
        The outcome of each model, in the order in which they end.
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
                    reason = f"{type(cause).__name__}: {cause}"
                else:  # its process died
                    line = str(error).strip().splitlines()[0]
                    reason = f"given up after {RETRIES} retries: {line}"
                yield Outcome(name, "failed", 0.0, reason)
    finally:
        ray.shutdown()


def _work(work: Work, name: ModelName, threads: int) -> Outcome:
    torch.set_num_threads(threads)
    rank_zero_only.rank = 0  # type: ignore[attr-defined]  # not the rank in the job that Ray was started in
    return work(name)
