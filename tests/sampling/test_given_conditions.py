"""Laws of given conditions: each frame has its own rows, for any cut, and rows fit the model."""

import numpy as np
import pytest
import torch

from helpers.models import small_frames
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.frame_streams import sample_frames, score_frames
from tttvideo.sampling.given_conditions import GivenConditions, check_fits, conditions_read
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import Conditions, ConditionsConfig
from tttvideo.video.frame_model import FrameModelConfig


RANDOM = np.random.default_rng(0)
ROWS = {
    "actions": RANDOM.integers(4, size=9),
    "poses": RANDOM.normal(size=(9, 2)).astype(np.float32),
    "classes": np.full(9, 2),
    "seconds": RANDOM.random(9).astype(np.float32),
}


def config(poses="none", moves=None, **known):
    address = AddressConfig(poses=poses, moves=moves)
    return FrameModelConfig(address=address, conditions=ConditionsConfig(**known))


@pytest.mark.parametrize("cuts", [(9,), (4, 5), (1, 1, 6, 1)], ids=str)
def test_every_frame_has_its_rows_and_the_pose_of_the_next(cuts):
    given, end = GivenConditions(ROWS), 0
    for cut in cuts:
        found, begin, end = given.read(cut), end, end + cut
        assert found.actions.tolist() == [ROWS["actions"][begin:end].tolist()]
        assert found.seconds[0].tolist() == ROWS["seconds"][begin:end].tolist()
        poses = np.concatenate((ROWS["poses"], ROWS["poses"][-1:]))[begin : end + 1]
        assert np.array_equal(found.poses[0], poses) and found.classes.tolist() == [2]


def test_futures_share_the_rows_after_what_was_read():
    given = GivenConditions(ROWS)
    given.read(3)
    futures = given.ahead(4, 5)
    assert futures.actions.tolist() == [ROWS["actions"][3:7].tolist()] * 5
    assert futures.poses.shape == (5, 5, 2) and futures.classes.tolist() == [2] * 5
    assert given.read(4).actions.tolist() == [ROWS["actions"][3:7].tolist()]


def test_a_model_without_conditions_is_told_nothing():
    assert GivenConditions({}).read(4) == Conditions() == GivenConditions({}).ahead(2, 8)


@pytest.mark.parametrize("name", ["actions", "poses"])
def test_rows_of_the_horizon_steer_the_prediction_and_leave_what_was_read(name):
    address = AddressConfig(poses="shift", as_input=True)
    model = small_frames(std=1.0, address=address, conditions=ConditionsConfig(actions=4))
    frames, sampled = torch.randint(7, (1, 5, 6)), []
    for change in (0, 1):
        later = {name: np.concatenate((ROWS[name][:6], (ROWS[name][6:] + change) % 4))}
        given = GivenConditions({"actions": ROWS["actions"], "poses": ROWS["poses"]} | later)
        bits, prefix = score_frames(model, frames, None, given.read(5))
        ahead = sample_frames(model, prefix, 4, Chooser(0.0), given.ahead(4))
        sampled.append((bits, *torch.stack(list(ahead))))
    equal = [torch.equal(one, other) for one, other in zip(*sampled, strict=True)]
    assert equal[:2] == [True, True] and not all(equal[2:])


@pytest.mark.parametrize(
    ("model", "read"),
    [
        (config(), {}),
        (config(actions=4, dropout=0.1), {"actions": False}),
        (config(action_size=2, seconds=True), {"actions": True, "seconds": True}),
        (config("moves", [(0, 1), (1, 0)], dropout=0.1), {"actions": True}),
        (config("walk", classes=3), {"poses": True, "classes": True}),
        (config("shift", classes=3, dropout=0.5), {"poses": True, "classes": False}),
    ],
)
def test_what_a_model_reads_and_what_it_has_to_have(model, read):
    assert conditions_read(model) == read


@pytest.mark.parametrize(
    ("model", "name", "rows", "message"),
    [
        (
            config(actions=4),
            "actions",
            np.array([1, 4]),
            "a.npy has actions of integers up to 4",
        ),
        (config(actions=4), "actions", np.zeros((2, 3)), "of 3 numbers; .* an integer below 4 of"),
        (config(action_size=2), "actions", np.zeros((2, 3)), "the model reads 2 numbers of each"),
        (
            config(action_size=2),
            "actions",
            np.array([1, 0]),
            "up to 1; .* reads 2 numbers",
        ),
        (config("moves", [(0, 1)]), "actions", np.array([0, 1]), "reads an integer below 1"),
        (config("walk"), "poses", np.zeros((2, 2)), "poses of 2 numbers; the model reads 3"),
        (config("shift"), "poses", np.zeros((2, 3)), "poses of 3 numbers; the model reads 2"),
        (config(classes=2), "classes", np.array([2]), "classes of integers up to 2"),
    ],
)
def test_rows_of_another_form_than_the_models_are_refused(model, name, rows, message):
    with pytest.raises(ValueError, match=message):
        check_fits(model, name, rows, "a.npy")
    fitting = {"actions": [0, 0], "poses": [[0.5] * 3], "classes": [1, 0]}
    if model.conditions.action_size:
        fitting["actions"] = [[0.5, 1]]
    if model.address.poses == "shift":
        fitting["poses"] = [[0, 0.5]]
    check_fits(model, name, np.array(fitting[name]), "a.npy")
