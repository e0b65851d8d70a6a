"""Processes that train a model together; see also tests/fleet/test_devices.py."""

from unittest.mock import Mock

import pytest
from lightning.pytorch import LightningModule, Trainer

from lightning_modules.callbacks.peers import Peers, share


@pytest.mark.parametrize(
    "mine", ["shadow-004, from its checkpoint", "shadow-003, from its first epoch"]
)
def test_processes_must_begin_with_the_same_model_at_the_same_epoch(mine):
    trainer = Mock(Trainer, global_rank=1, world_size=1)
    trainer.strategy.broadcast.return_value = "shadow-003, from its checkpoint"  # of the first
    Peers("shadow-003, from its checkpoint").on_fit_start(trainer, LightningModule())
    message = f"got shadow-003, from its checkpoint in the first and {mine} in process 1.*network f"
    with pytest.raises(RuntimeError, match=message):
        Peers(mine).on_fit_start(trainer, LightningModule())


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_every_item_is_in_one_share_and_the_first_process_has_the_first(processes):
    shares = [
        share(Mock(Trainer, global_rank=rank, world_size=processes), "abcd")
        for rank in range(processes)
    ]
    assert sorted("".join(shares)) == list("abcd")
    assert shares[0][0] == "a"
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_gathers_its_own_value_and_waits_for_nobody():
    peers = Peers("shadow-000")
    assert peers.gather({"a": 1}) == [{"a": 1}]
    peers.on_fit_end(Mock(Trainer), LightningModule())
