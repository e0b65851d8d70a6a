import os

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from datamodules.digits import Digits
from fleet.checks import (
    Devices,
    check_options,
    check_processes,
    choose_queries,
    choose_threads,
    emulates_bfloat16,
    note_arithmetic,
    takes_ray,
)
from fleet.options import FleetOptions


def options(**trainer):
    defaults = {"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1}
    defaults |= {"max_epochs": 3, "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1}
    trainer = Namespace(**(defaults | trainer))
    given = {"threads": None, "repair": False, "queries": None, "checkpoint_every": 60.0}
    return Namespace(**given, snapshots=[], trainer=trainer)


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"), [(1, 1, 1), ("auto", 1, 1), (2, 1, 2), (2, 3, 6)]
)
def test_the_processes_of_a_model_are_counted(devices, nodes, expected):
    strategy = "auto" if expected == 1 else "ddp"
    asked = options(devices=devices, num_nodes=nodes, strategy=strategy)
    found = check_options(asked, FleetOptions())
    assert found == Devices("CPU", 1 if devices == "auto" else devices, expected)


@pytest.fixture
def gpus(monkeypatch):
    """Four GPUs, as far as Lightning and torch tell without using one."""
    for module in ("lightning.fabric.accelerators.cuda", "lightning.pytorch.accelerators.cuda"):
        monkeypatch.setattr(f"{module}.num_cuda_devices", lambda: 4)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.is_cuda_available", lambda: True)
    visible = "lightning.fabric.accelerators.cuda._get_all_visible_cuda_devices"
    monkeypatch.setattr(visible, lambda: [0, 1, 2, 3])
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_a_model_takes_one_of_several_gpus_unless_asked(gpus):
    asked = options(accelerator="auto", devices="auto")
    assert check_options(asked, FleetOptions()) == Devices("GPU", 1, 1)
    assert asked.trainer.devices == 1
    for devices, count in ((3, 3), (-1, 4), ("0,2", 2)):
        asked = options(accelerator="gpu", devices=devices, strategy="ddp")
        assert check_options(asked, FleetOptions()) == Devices("GPU", count, count)


def test_idle_gpus_are_named_with_the_command_that_uses_them(gpus):
    line = Devices("GPU").describe(FleetOptions())
    assert line == (
        "Each model trains on one GPU, one model after another. This machine has 4 GPUs: "
        "`--fleet.workers 4 --fleet.gpus_per_model 1` trains a model on each."
    )
    assert Devices("GPU", 4, 4).describe(FleetOptions()) == (
        "Each model trains on 4 GPUs together, one model after another."
    )
    packed = FleetOptions(workers=8, gpus_per_model=0.25)
    assert Devices("GPU").describe(packed) == "8 models train at once, on 0.25 GPU each."


@pytest.mark.parametrize(
    ("cores", "end"),
    [
        (4, "."),
        (2, "; they share 2 cores, so `--fleet.workers 2` would be as fast."),
        (1, "; they share one core, so `--fleet.workers 1` would be as fast."),
    ],
)
def test_more_workers_than_cores_are_allowed_and_told(monkeypatch, cores, end):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    line = Devices("CPU").describe(FleetOptions(workers=3))
    assert line == f"3 models train at once on the CPU{end}"
    remote = Devices("CPU").describe(FleetOptions(workers=3, address="auto"))
    assert remote == "3 models train at once on the CPU."
    single = Devices("CPU").describe(FleetOptions(address="auto"))
    assert single == "1 model trains at a time on the CPU."


def test_a_cluster_may_have_gpus_where_its_driver_has_none():
    asked, fleet = options(accelerator="gpu"), {"workers": 2, "address": "head:6379"}
    assert check_options(asked, FleetOptions(**fleet, gpus_per_model=0.5)) == Devices("GPU")
    with pytest.raises(ValueError, match=r"`--fleet.gpus_per_model` must say how much"):
        check_options(asked, FleetOptions(**fleet))


@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize(("mac", "refused"), [(True, ["gpu", "mps"]), (False, ["mps"])])
def test_a_macs_gpu_is_refused_and_its_cpu_taken_by_default(monkeypatch, mac, refused):
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: mac))
    for name in refused:
        with pytest.raises(ValueError, match=rf"must be cpu on a Mac, got {name}: .*float64"):
            check_options(options(accelerator=name), FleetOptions())
    asked = options(accelerator="auto" if mac else "cpu")
    assert check_options(asked, FleetOptions()) == Devices("CPU")
    assert asked.trainer.accelerator == "cpu"


def test_workers_on_gpus_must_say_how_much_of_one(monkeypatch):
    monkeypatch.setattr("fleet.checks.CUDAAccelerator", object)  # every accelerator is one
    with pytest.raises(ValueError, match=r"`--fleet.gpus_per_model` must say .*0\.25 to pack four"):
        check_options(options(), FleetOptions(workers=2))
    packed = FleetOptions(workers=2, gpus_per_model=0.25)
    assert check_options(options(), packed) == Devices("GPU")


def test_workers_that_cannot_be_forked_need_ray(monkeypatch):
    needs = (
        (FleetOptions(workers=2, gpus_per_model=0.5), "GPU"),
        (FleetOptions(workers=2, gpus_per_model=0.5), "CPU"),
        (FleetOptions(address="auto"), "CPU"),
    )
    local = FleetOptions(workers=2)
    for fleet, kind in (*needs, (local, "CPU"), (FleetOptions(), "GPU")):
        assert check_processes(fleet, kind) == []
        assert takes_ray(fleet, kind) == ((fleet, kind) in needs)
    monkeypatch.setattr("fleet.checks.find_spec", lambda _: None)
    assert check_processes(local, "CPU") == check_processes(FleetOptions(), "GPU") == []
    for fleet, kind in needs:
        with pytest.raises(ValueError, match=r"need Ray.*`pip install -e '.\[ray\]'`.*workers 1"):
            check_processes(fleet, kind)
    monkeypatch.setattr("sys.platform", "darwin")  # the recipe of the demo has two workers
    (note,) = check_processes(local, "CPU")
    assert note.startswith("Note: on this system, `--fleet.workers 2` needs Ray, which is not")
    assert note.endswith("(`pip install -e '.[ray]'`); without it, models are trained one by one.")
    assert local.workers == 1
    assert check_processes(local, "CPU") == []


def test_workers_share_the_cores_fairly(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert choose_threads(options(), FleetOptions()) == torch.get_num_threads()
    assert choose_threads(options(), FleetOptions(), 2) == 4  # two processes per model
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
    notes = note_arithmetic(options(precision=precision, benchmark=None), Devices("CPU"))
    assert notes == (
        ["Note: this CPU emulates bf16; `--trainer.precision 32-true` is faster."] * emulated
    )


@pytest.mark.parametrize(("native", "benchmark"), [(True, True), (False, None), (True, None)])
def test_notes_say_what_a_gpu_emulates_and_what_is_chosen_by_timing(monkeypatch, native, benchmark):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    supported = lambda including_emulation: native or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    asked = options(precision="bf16-mixed", benchmark=benchmark)
    notes = note_arithmetic(asked, Devices("GPU"))
    slow = "Note: this GPU emulates bf16; `--trainer.precision 16-mixed` is faster."
    assert (slow in notes) == (not native)
    assert any("chooses kernels by their timing" in note for note in notes) == bool(benchmark)
    assert len(notes) == (not native) + bool(benchmark)


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


def test_checkpoints_are_not_written_before_the_last_one():
    config = options()
    config.checkpoint_every = -1.0
    with pytest.raises(ValueError, match=r"`--checkpoint_every` must be 0 .* seconds, got -1\."):
        check_options(config, FleetOptions())


def test_a_dry_run_repairs_nothing():
    config = options()
    config.repair = True
    with pytest.raises(ValueError, match="`--repair` deletes damaged files"):
        check_options(config, FleetOptions(dry_run=True))
