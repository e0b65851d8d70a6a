from unittest.mock import create_autospec

from lightning.pytorch import LightningModule, Trainer

from lightning_modules.callbacks import compile_time
from lightning_modules.callbacks.compile_time import CompileTime


class Logger:
    def __init__(self):
        self.logged = []

    def log_metrics(self, metrics, step):
        self.logged.append((metrics, step))


def test_compiling_is_what_the_first_epoch_takes_longer_than_the_second(monkeypatch):
    """Steps of 30, 1, 16 and 1 s, then of 1 s each; the 100 s between steps do not count."""
    now, told, logger = [0.0], [], Logger()
    monkeypatch.setattr(compile_time.time, "perf_counter", lambda: now[0])
    callback, module = CompileTime(told.append), create_autospec(LightningModule)
    trainer = create_autospec(Trainer, loggers=[logger], global_step=8)
    callback.on_train_start(trainer, module)
    for steps in ([30, 1, 16, 1], [1, 1, 1, 1], [9, 9, 9, 9]):
        callback.on_train_epoch_start(trainer, module)
        for index, seconds in enumerate(steps):
            now[0] += 100
            callback.on_train_batch_start(trainer, module, None, index)
            now[0] += seconds
            callback.on_train_batch_end(trainer, module, None, None, index)
        callback.on_train_epoch_end(trainer, module)
    assert told == [44.0]
    assert logger.logged == [({"compile/seconds": 44.0}, 8)]
