"""Laws of early stopping: it stops when nothing gets better, and goes back to the best weights."""

from types import SimpleNamespace

import pytest
import torch

from tttvideo.training.keep_best import KeepBest


def validations(values, highest, patience=2, resume_at=None):
    """Weights n after validation n, until training stops; returns their number and the last."""
    model, callback = torch.nn.Linear(1, 1), KeepBest("value", highest, patience)
    trainer = SimpleNamespace(sanity_checking=False, training=True, should_stop=False)
    for number, value in enumerate(values):
        torch.nn.init.constant_(model.weight, number)
        trainer.callback_metrics = {"value": torch.tensor(value)}
        callback.on_validation_end(trainer, model)
        if number == resume_at:
            state, callback = callback.state_dict(), KeepBest("value", highest, patience)
            callback.load_state_dict(state)
        if trainer.should_stop:
            break
    callback.on_train_end(trainer, model)
    return number + 1, model.weight.item()


@pytest.mark.parametrize("resume_at", [None, 1, 3])
def test_training_stops_after_its_patience_with_the_best_weights(resume_at):
    values = [1.0, 3.0, 2.0, 4.0, 3.5, 3.9, 9.0]
    assert validations(values, True, resume_at=resume_at) == (6, 3)
    assert validations([-x for x in values], False, resume_at=resume_at) == (6, 3)


def test_training_that_is_not_stopped_has_its_best_weights_too():
    assert validations([2.0, 1.0, 1.5], highest=False) == (3, 1)
    assert validations([1.0, 2.0, 3.0], highest=True) == (3, 2)


def test_a_patience_below_one_is_refused():
    with pytest.raises(ValueError, match="optim.patience is 0; it must be 1 or more"):
        KeepBest("value", highest=True, patience=0)
