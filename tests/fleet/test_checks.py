import os

import pytest
import torch
from jsonargparse import Namespace

from datamodules.digits import Digits
from fleet.checks import (
    check_options,
    choose_queries,
    choose_threads,
    emulates_bfloat16,
    note_precision,
)
from fleet.options import FleetOptions


def options(**trainer):
    defaults = {"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1}
    defaults |= {"max_epochs": 3, "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1}
    trainer = Namespace(**(defaults | trainer))
    return Namespace(threads=None, repair=False, queries=None, trainer=trainer)


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"), [(1, 1, 1), ("auto", 1, 1), (2, 1, 2), (2, 3, 6)]
)
def test_the_processes_of_a_model_are_counted(devices, nodes, expected):
    strategy = "auto" if expected == 1 else "ddp"
    asked = options(devices=devices, num_nodes=nodes, strategy=strategy)
    assert check_options(asked, FleetOptions()) == expected


def test_workers_on_gpus_must_say_how_much_of_one(monkeypatch):
    monkeypatch.setattr("fleet.checks.CUDAAccelerator", object)  # every accelerator is one
    with pytest.raises(ValueError, match=r"`--fleet.gpus_per_model` must say .*0\.25 to pack four"):
        check_options(options(), FleetOptions(workers=2))
    assert check_options(options(), FleetOptions(workers=2, gpus_per_model=0.25)) == 1


def test_workers_share_the_cores_fairly(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert choose_threads(options(), FleetOptions()) == torch.get_num_threads()
    assert choose_threads(options(), FleetOptions(workers=3)) == 2
    assert choose_threads(options(), FleetOptions(workers=9)) == 1
    assert (
        choose_threads(options(), FleetOptions(workers=2, address="auto")) == 1
    )  # of another machine
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert choose_threads(options(), FleetOptions(workers=2)) == 3
    asked = options()
    asked.threads = 5
    assert choose_threads(asked, FleetOptions(workers=3)) == 5


@pytest.mark.parametrize(
    ("line", "emulates"),
    [
        ("flags : fpu avx512f avx512_bf16 avx512vbmi", False),  # Zen 4
        ("flags : avx512f amx_bf16 amx_tile", False),  # Sapphire Rapids
        ("Features : fp asimd i8mm bf16 dgh", False),  # Neoverse V1
        ("flags : fpu avx2 avx512f avx512_vnni", True),  # Cascade Lake
        ("flags : fpu sse avx2 fma", True),
        ("Features : fp asimd svebf16x", True),  # `bf16` is only a part of this flag
    ],
)
def test_bfloat16_is_emulated_without_an_instruction_for_it(tmp_path, line, emulates):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert emulates_bfloat16(tmp_path / "cpuinfo") == emulates


def test_without_a_list_of_instructions_nothing_is_claimed(tmp_path):
    assert not emulates_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(("precision", "emulated"), [("bf16-mixed", True), ("32-true", False)])
def test_a_note_says_that_bfloat16_is_emulated(monkeypatch, precision, emulated):
    monkeypatch.setattr("fleet.checks.emulates_bfloat16", lambda: True)
    notes = note_precision(options(precision=precision))
    assert notes == (
        ["Note: this CPU emulates bf16; `--trainer.precision 32-true` is faster."] * emulated
    )


def test_queries_are_the_views_of_training_by_default():
    data = Digits(pool_size=64, flip=True, crop=0)
    data.setup("fit")
    config = options()
    assert choose_queries(config, data) == (["identity", "mirror"], [])
    config.queries = ["identity", "shift+1+0"]
    queries, notes = choose_queries(config, data)
    assert queries == ["identity", "shift+1+0"]
    assert notes == ["Note: training never uses shift+1+0; such a query is weak."]
    config.queries = ["shift+9+0"]
    with pytest.raises(ValueError, match=r"shift\+9\+0"):
        choose_queries(config, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": None}, r"`--trainer.max_epochs` is missing; pass for example 30"),
        ({"max_epochs": 0}, "`max_epochs` must be 1 or more, got 0"),
        ({"strategy": "fsdp"}, "must keep a whole model on each device, as ddp does, got fsdp"),
    ],
)
def test_options_that_a_fleet_cannot_use_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_options(options(**change), FleetOptions())


def test_workers_and_several_devices_exclude_each_other():
    with pytest.raises(ValueError, match=r"must be 1 with `--fleet.workers`, got 2 and 1"):
        check_options(options(devices=2), FleetOptions(workers=2))


def test_a_dry_run_repairs_nothing():
    config = options()
    config.repair = True
    with pytest.raises(ValueError, match="`--repair` deletes damaged files"):
        check_options(config, FleetOptions(dry_run=True))
