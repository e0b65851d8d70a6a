"""Ray's processes without a fleet."""

import pytest

SCRIPT = r"""
import os
from pathlib import Path

import torch

from fleet import workers
from fleet.engine import Outcome, is_first
from fleet.options import FleetOptions
from fleet.workers import connect, in_workers
from storage.names import ModelName

NAMES = [ModelName("shadow", number) for number in range(4)]


def work(name):
    assert is_first()  # whatever SLURM calls the process that Ray was started in
    if name.number == 1:
        os._exit(9)  # each time that it is tried
    if name.number == 2:
        raise KeyError("an error")
    (Path(os.environ["NOTES"]) / f"{name}-{os.getpid()}").touch()
    return Outcome(name, "finished", float(torch.get_num_threads()))


if __name__ == "__main__":
    try:
        connect(FleetOptions(workers=2, gpus_per_model=0.25), 1)
    except ValueError as error:
        lines = [str(error)]
    fleet, workers.RETRIES = FleetOptions(workers=2), 1
    connect(fleet, 3)
    begun = []
    for outcome in in_workers(work, fleet, 3, NAMES, begun.append):
        lines.append(" ".join(map(str, (len(begun), *outcome))))
    (Path(os.environ["NOTES"]) / "lines").write_text("\n".join(lines))
"""


@pytest.mark.slow
def test_workers_share_models_and_a_model_that_kills_them_fails_alone(run_script):
    notes, _ = run_script(SCRIPT, SLURM_PROCID="1", RAY_ADDRESS="10.0.0.1:1")
    small, *lines = (notes / "lines").read_text().splitlines()  # Ray's daemon writes to the screen
    assert small.startswith("2 models at once need 0.5 GPUs, Ray has 0. Lower `--fleet.w")
    assert small.endswith("or lower or leave out `--fleet.gpus_per_model`.")
    begun, ended = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert list(begun) == ["2", "3", "4", "4"]  # two at a time
    died = [line for line in ended if "given up after 1 retries: The worker died" in line]
    assert "shadow-002 failed 0.0 KeyError: 'an error'" in ended
    assert len(died) == 1
    assert died[0].startswith("shadow-001 failed")
    assert sum("finished 3.0" in line for line in ended) == 2
    assert len(list(notes.glob("shadow-*"))) == 2
