"""Several models at once in Ray's processes: on GPUs, on a cluster, or where none can be forked."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from math import ceil
from socket import create_connection
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from fleet.engine import Outcome, Work
from fleet.interrupt import stop_at_sigterm
from fleet.options import FleetOptions
from fleet.ray_store import put
from storage.names import ModelName

RETRIES = 3  # for a model whose process died; it goes on from its last checkpoint
# Worth of models per task on a GPU. Ray starts a new process for each, so that none keeps memory
# of a GPU that it no longer has.
TASK_SECONDS = 60.0
ADDRESS_SECONDS = 10.0  # patience with a cluster's address


def connect(fleet: FleetOptions, threads: int) -> None:
    """Start Ray on this machine, or connect to a cluster; SIGTERM is then like Ctrl-C.

    Args:
        fleet: number of workers, each one's share of a GPU, and the cluster's address.
        threads: CPU threads per worker.

    Raises:
        ValueError: there are too few CPUs or GPUs, or Ray cannot start.
        ConnectionError: there is no cluster at that address.
        KeyboardInterrupt: SIGTERM came meanwhile.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = import_module("ray")  # an extra; `check_processes` has found it
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if fleet.address:
        _check_address(fleet.address)
    try:
        if fleet.address:
            ray.init(fleet.address, **quiet)
        else:
            ray.init("local", num_cpus=fleet.workers * threads, include_dashboard=False, **quiet)
    except SystemExit:  # what Ray makes of SIGTERM while it starts
        raise KeyboardInterrupt from None
    except RuntimeError as error:  # for example another version of Ray in the cluster
        raise ValueError(f"Ray cannot start: {error}") from error
    stop_at_sigterm()
    try:
        check_places(_nodes(), fleet, threads)
    except ValueError:
        ray.shutdown()
        raise


def check_places(nodes: Sequence[Mapping[str, float]], fleet: FleetOptions, threads: int) -> None:
    """Raise if a cluster has no room for all workers, and Ray would wait for more nodes.

    Args:
        nodes: number of CPUs and GPUs of each node.
        fleet: number of workers, and each one's share of a GPU.
        threads: CPU threads per worker, all on one node.

    Raises:
        ValueError: there are too few CPUs or GPUs, in all or together on a node.
    """
    hint = ", or lower or leave out `--fleet.gpus_per_model`"
    for kind, share in (("CPU", threads), ("GPU", fleet.gpus_per_model)):
        total = sum(node.get(kind, 0) for node in nodes)
        if share * fleet.workers > total:
            raise ValueError(
                f"{fleet.workers} models at once need {share * fleet.workers:g} {kind}s, Ray has "
                f"{total:g}. Lower `--fleet.workers`{hint if kind == 'GPU' else ''}."
            )
    places = sum(_places(node, threads, fleet.gpus_per_model) for node in nodes)
    if places < fleet.workers:
        needs = f"{threads} CPUs and {fleet.gpus_per_model:g} GPUs"
        raise ValueError(
            f"{fleet.workers} models at once need {needs} each on one node, and Ray's nodes have "
            f"room for {places}. Lower `--fleet.workers` or `--threads`{hint}."
        )


def idle_gpus(fleet: FleetOptions) -> str | None:
    """A note if Ray has GPUs that no worker will use; Ray must be connected."""
    count = sum(node.get("GPU", 0) for node in _nodes())
    if not count or fleet.gpus_per_model:
        return None
    return (
        f"Note: the models are trained on CPUs, and Ray has {count:g} GPUs; pass "
        "`--fleet.gpus_per_model 1` to train each model on one, or 0.25 to pack four on one."
    )


class Queue:
    """Models that wait for a process.

    Args:
        names: the models.
        fleet: number of workers, and each one's share of a GPU.
    """

    def __init__(self, names: Sequence[ModelName], fleet: FleetOptions) -> None:
        self.fleet, self.waiting = fleet, deque(names)
        self.suspects = deque[ModelName]()  # each may have killed a process that had several
        self.seconds = list[float]()  # of the models that ended

    def __len__(self) -> int:
        """Count the models."""
        return len(self.waiting) + len(self.suspects)

    def take(self) -> list[ModelName]:
        """Remove the models of the next task: a suspect alone, or about a minute's worth.

        Without GPUs, and until a model has ended, a task is one model.
        """
        if self.suspects:
            return [self.suspects.popleft()]
        count = 1
        if self.fleet.gpus_per_model and self.seconds:
            mean = sum(self.seconds) / len(self.seconds)
            fair = ceil(len(self.waiting) / self.fleet.workers)
            count = max(1, min(int(TASK_SECONDS / max(mean, 1.0)), fair))
        return [self.waiting.popleft() for _ in range(count)]


def in_workers(
    work: Work,
    fleet: FleetOptions,
    threads: int,
    names: Sequence[ModelName],
    begin: Callable[[ModelName], None],
) -> Iterator[Outcome]:
    """Work on `fleet.workers` models at once, each in one of Ray's processes.

    Ray must be connected. A process on a GPU takes several short models, one after another. If a
    process dies, the models that it had left are each tried again alone, and a model goes on from
    its last checkpoint.

    Args:
        work: the work on one model. Each node gets one copy, with everything that it holds; its
            tensors must not be written to, because the processes of a node share them.
        fleet: number of workers, and each one's share of a GPU.
        threads: CPU threads per worker.
        names: the models.
        begin: called with each model before work on it begins.

    Yields:
        The outcome of each model, in the order in which they end.
    """
    ray: Any = import_module("ray")
    share = fleet.gpus_per_model
    remote = ray.remote(num_cpus=threads, num_gpus=share, num_returns="streaming")(_work)
    queue, begun = Queue(names, fleet), set[ModelName]()
    running = dict[Any, tuple[bool, deque[ModelName]]]()  # by task: whether it is of several, left
    try:
        shared = put(work)
        while queue or running:
            while queue and len(running) < fleet.workers:
                chosen = queue.take()
                several = len(chosen) > 1
                task = remote.options(max_retries=0 if several else RETRIES)
                running[task.remote(shared, chosen, threads, share)] = several, deque(chosen)
            for name in [left[0] for _, left in running.values() if left]:
                if name not in begun:
                    begun.add(name)
                    begin(name)
            (ended,), _ = ray.wait(list(running))
            several, left = running[ended]
            try:
                outcome = ray.get(next(ended))
            except StopIteration:
                del running[ended]
            except ray.exceptions.RayError as error:
                del running[ended]
                if several:
                    queue.suspects += left
                else:
                    yield Outcome(left[0], "failed", 0.0, _reason(error))
            else:
                left.popleft()
                if outcome.state == "finished":
                    queue.seconds.append(outcome.seconds)
                yield outcome
    finally:
        ray.shutdown()


def _work(work: Work, names: list[ModelName], threads: int, share: float) -> Iterator[Outcome]:
    torch.set_num_threads(threads)
    rank_zero_only.rank = 0  # type: ignore[attr-defined]  # not the rank in the job that Ray was started in
    if not share:
        # Ray means to stop hiding GPUs that were not asked for
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
    for name in names:
        yield work(name)


def _reason(error: Exception) -> str:
    """Why a task ended without an outcome."""
    if cause := getattr(error, "cause", None):
        return f"{type(cause).__name__}: {cause}"
    line = str(error).strip().splitlines()[0]  # its process died
    return f"given up after {RETRIES} retries: {line}"


def _check_address(address: str) -> None:
    """Raise if nothing listens at host:port, for which Ray takes minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return  # `auto`, or a form that only Ray knows
    try:
        create_connection((host, int(port)), timeout=ADDRESS_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster at `--fleet.address {address}` ({error}). `ray start --head` prints "
            "the address of a new one; `auto` finds one on this machine."
        ) from error


def _nodes() -> list[dict[str, float]]:
    """Number of CPUs, GPUs and other resources of each node."""
    ray: Any = import_module("ray")
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(node: Mapping[str, float], threads: int, share: float) -> int:
    """Number of workers for which a node has room; each keeps to one GPU."""
    places = node.get("CPU", 0) // threads
    if share:
        places = min(places, node.get("GPU", 0) * (1 // share))
    return int(places)
