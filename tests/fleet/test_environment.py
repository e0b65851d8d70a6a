from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from fleet.fit import environment
from fleet.options import FleetOptions


def test_lightning_hears_of_other_processes_from_slurm_or_from_nobody(monkeypatch):
    assert environment(FleetOptions()) == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "fleet")
    (slurm,) = environment(FleetOptions())
    assert isinstance(slurm, SLURMEnvironment)
    assert not slurm.auto_requeue
    (alone,) = environment(FleetOptions(workers=2))
    assert isinstance(alone, LightningEnvironment)
