from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_modules.callbacks.guards import StopDiverged


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_end"])
def test_a_fit_ends_when_a_weight_is_not_finite(value, hook):
    trainer, module = Mock(Trainer, should_stop=False), LightningModule()
    module.network = nn.Linear(3, 2)
    getattr(StopDiverged(), hook)(trainer, module)
    assert not trainer.should_stop
    with torch.no_grad():
        module.network.bias[1] = value
    getattr(StopDiverged(), hook)(trainer, module)
    assert trainer.should_stop
