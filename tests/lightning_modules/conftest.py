"""A fit of one model in this process, with nothing but what a test asks for."""

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.callbacks.checkpoints import WholeCheckpointIO


@pytest.fixture
def fit_model(tmp_path):
    """Fit a model on a data set; checkpoints are those of the callbacks."""

    def train(model, data, epochs, resume=None, callbacks=(), **further):
        options = {"accelerator": "cpu", "limit_val_batches": 0} | further
        trainer = Trainer(
            max_epochs=epochs,
            logger=False,
            callbacks=[*callbacks],
            plugins=[WholeCheckpointIO()],
            enable_checkpointing=any(isinstance(own, Checkpoint) for own in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            **options,
        )
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)

    return train
