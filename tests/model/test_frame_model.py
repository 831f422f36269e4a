"""Laws of the frame model, its head, addresses and conditions."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from helpers.models import small_frames
from helpers.states import assert_same_state
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.registry import MIXERS
from tttvideo.video.address import AddressConfig, PlaceAddress
from tttvideo.video.conditions import ConditionEmbedding, Conditions, ConditionsConfig
from tttvideo.video.frame_head import FrameHead, HeadConfig


MEMORIES = pytest.mark.parametrize("mixer", [*MIXERS, None])
ORDERS = pytest.mark.parametrize("order", ["diagonal", "raster", "parallel"])


def random_frames(*size, V=7):
    return torch.randint(V, (*size, 6))


@MEMORIES
@torch.no_grad()
def test_any_cut_of_the_frames_gives_the_same_vectors_and_state(mixer):
    model, frames = small_frames(mixer=mixer, mamba=MambaConfig(head_dim=8)), random_frames(2, 7)
    whole, last = model(frames)
    state, parts = None, []
    for part in frames.split([3, 1, 1, 2], dim=1):
        vectors, state = model(part, state)
        parts.append(vectors)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert_same_state(state, last)


def test_blocks_before_the_first_mixer_have_none():
    model, frames = small_frames(depth=3, first_mixer=2), random_frames(1, 2)
    assert [block.mixer is None for block in model.blocks] == [True, True, False]
    assert model(frames)[1].blocks[:2] == (None, None)
    for first in (-1, 3):
        with pytest.raises(
            ValueError, match=f"first_mixer is {first}; it must be 0 or more and below"
        ):
            small_frames(depth=3, first_mixer=first)


@torch.no_grad()
def test_a_frame_is_read_as_a_whole_and_changes_nothing_before_it():
    model, frames = small_frames(), random_frames(1, 4)
    other = frames.clone()
    other[0, 2, 5] = (frames[0, 2, 5] + 1) % 7
    a, b = model(frames)[0], model(other)[0]
    assert torch.equal(a[:, :2], b[:, :2])
    assert (a[:, 2:] != b[:, 2:]).any(-1).all()  # every token of the frame, and of those after it


@pytest.mark.parametrize("mixer", ["attention", "linear_attention", "gated_delta", "ttt"])
@torch.no_grad()
def test_a_memory_alone_reads_a_frame_as_a_whole(mixer):
    model, frames = small_frames(mixer=mixer, in_frame=False, window_frames=0), random_frames(1, 4)
    other = frames.clone()
    other[0, 2, 5] = (frames[0, 2, 5] + 1) % 7
    changed = (model(frames)[0] != model(other)[0]).any(-1)[0]
    assert not changed[:2].any() and changed[2].all()


@torch.no_grad()
def test_without_attention_window_and_memory_a_token_sees_itself_alone():
    model, frames = small_frames(mixer=None, in_frame=False, window_frames=0), random_frames(1, 4)
    other = frames.clone()
    other[0, 2, 3] = (frames[0, 2, 3] + 1) % 7
    changed = (model(frames)[0] != model(other)[0]).any(-1)[0]
    assert changed.nonzero().tolist() == [[2, 3]]


@torch.no_grad()
def test_the_window_alone_forgets_what_is_older():
    model, frames = small_frames(mixer=None, window_frames=2), random_frames(1, 5)
    other = frames.clone()
    other[0, 1] = (frames[0, 1] + 1) % 7
    changed = (model(frames)[0] != model(other)[0]).any(-1).any(-1)[0]
    assert changed.tolist() == [False, True, True, False, False]


@ORDERS
@pytest.mark.parametrize("depth", [0, 2])
@torch.no_grad()
def test_the_probabilities_of_all_frames_sum_to_one(order, depth):
    head = small_head(V=2, depth=depth, order=order)
    frames = torch.tensor(list(product((0, 1), repeat=6)))
    vectors, last = torch.randn(1, 6, 8).double().expand(64, -1, -1), random_frames(64, V=2)
    logits = head(vectors, frames, last.new_zeros(64, 6))
    log_p = logits.log_softmax(-1).gather(-1, frames[..., None]).sum((1, 2))
    torch.testing.assert_close(log_p.exp().sum(), torch.ones(()).double())


@ORDERS
@pytest.mark.parametrize("depth, copy_last", [(0, True), (2, False)])
@torch.no_grad()
def test_frames_are_sampled_by_the_logits_that_score_them(order, depth, copy_last):
    head = small_head(V=7, depth=depth, order=order, copy_last=copy_last)
    vectors, last = torch.randn(3, 6, 8).double(), random_frames(3)
    seen, rows = [], []

    def choose(logits, row):
        seen.append(logits)
        rows.extend(row)
        return logits.argmax(-1)

    frames = head.sample(vectors, last, choose)
    scored = head(vectors, frames, last)
    assert torch.equal(scored.argmax(-1), frames)
    places = torch.cat(head.steps)
    chosen = torch.cat([x.view(3, -1, 7) for x in seen], dim=1)
    torch.testing.assert_close(chosen, scored[:, places])
    assert sorted(rows) == [0] * 6 + [1] * 6 + [2] * 6
    assert len(head.steps) == {"diagonal": 5, "raster": 6, "parallel": 1}[order]


def small_head(V, **config):
    torch.manual_seed(0)
    head = FrameHead(HeadConfig(**config), V, 8, 2, 12, (2, 3), 1e-6).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


@torch.no_grad()
def test_a_copied_token_is_a_candidate_of_its_own():
    head, last = small_head(V=7, copy_last=True), random_frames(2)
    head.copy.weight.zero_()
    head.copy.bias.fill_(100.0)
    assert torch.equal(head(torch.randn(2, 6, 8).double(), random_frames(2), last).argmax(-1), last)


CELLS = AddressConfig("shift", periods=(4, 6))
ENDLESS = AddressConfig("shift", scales=(1.0, 3.0), features=32)


@pytest.mark.parametrize("config", [CELLS, ENDLESS], ids=["torus", "endless"])
def test_the_same_place_has_the_same_address_wherever_the_frame_shows_it(config):
    address = PlaceAddress(config, 16, (2, 3)).double()
    poses = torch.tensor([[[1, 1], [1, 2], [3, 3]]])  # a step to the right, then far away
    key, query = (x.unflatten(1, (2, 6)) for x in address(poses))
    torch.testing.assert_close(query[0, 0, :2], key[0, 0, 1:3])
    torch.testing.assert_close(query[:, 0], key[:, 1])
    apart = (key[0, 0, 0] - key[0, 0]).norm(dim=-1)
    assert apart[0] == 0 and (apart[1:] > 0.5).all()


def test_places_far_away_keep_their_address_in_half_precision():
    """In bfloat16 places 512 cells away would be told apart by 4 cells at best."""
    exact = PlaceAddress(ENDLESS, 16, (2, 3))
    poses = torch.tensor([[[511.0, 514.0], [511.0, 515.0]]])
    wanted = exact(poses).key
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(exact(poses).key.float(), wanted, rtol=0.05, atol=0.05)
    half = PlaceAddress(replace(ENDLESS, periods=(4, 6)), 16, (2, 3)).bfloat16()
    waves = half.features(half.coordinates(poses))
    exact = PlaceAddress(replace(ENDLESS, periods=(4, 6)), 16, (2, 3))
    assert torch.equal(waves, exact.features(exact.coordinates(poses)))


def test_a_torus_repeats_and_tells_all_its_cells_apart():
    address = PlaceAddress(CELLS, 16, (4, 6))
    here = address.features(address.coordinates(torch.tensor([[[0.0, 0.0], [4.0, -6.0]]])))
    torch.testing.assert_close(here[:, 0], here[:, 1], rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(torch.cat((here[0, 0], torch.ones(24, 1)), 1)) == 24


def test_a_walk_is_told_apart_by_place_by_angle_and_by_place_in_the_frame():
    address = PlaceAddress(AddressConfig("walk"), 16, (2, 3)).double()
    angles = torch.tensor([10.0, 370.0, 70.0, 10.0])
    poses = torch.stack((torch.tensor([2.0, 2, 2, 9]), torch.full((4,), 3.0), angles), dim=-1)[None]
    same, turned, moved = address(poses).query.unflatten(1, (3, 6))[0]
    here = address(poses).key.unflatten(1, (3, 6))[0, 0]
    torch.testing.assert_close(here, same)
    for other in (turned, moved, here.roll(1, 0)):
        assert ((here - other).norm(dim=-1) > 0.5).all()


def test_a_smaller_turn_tells_closer_views_apart():
    poses = torch.tensor([[[2.0, 3, 0], [2, 3, 11.25]]])

    def overlap(turn):
        address = PlaceAddress(AddressConfig("walk", turn=turn), 16, (1, 1))
        waves = address.features(address.coordinates(poses))
        return F.cosine_similarity(*waves[0, :, 0], dim=0)

    assert overlap(34.0) > 0.9 > overlap(17.0) > 0.7 > 0.5 > overlap(8.5)


@torch.no_grad()
def test_moves_that_are_summed_are_the_poses_they_lead_to():
    """So a model that is given actions needs no pose, and any cut gives the same."""
    moves = [(0.0, 1.0), (1.0, 0.0), (-2.0, 0.0)]
    summed = small_frames(address=AddressConfig("moves", moves=moves), ttt={"address": "place"})
    given = small_frames(address=AddressConfig("shift"), ttt={"address": "place"})
    frames, actions = random_frames(2, 5), torch.randint(3, (2, 5))
    steps = torch.tensor(moves)[actions]
    poses = torch.cat((torch.zeros(2, 1, 2), steps.cumsum(1)), dim=1)
    wanted, _ = given(frames, None, Conditions(poses=poses))
    known = Conditions(actions=actions)
    first, state = summed(frames[:, :2], None, known.frames(0, 2))
    second, _ = summed(frames[:, 2:], state, known.frames(2, 5))
    torch.testing.assert_close(torch.cat((first, second), dim=1), wanted)


@pytest.mark.parametrize("mixer", ["mamba", None])
@torch.no_grad()
def test_a_memory_without_keys_learns_of_poses_by_its_inputs(mixer):
    frames = random_frames(1, 3)
    known = [Conditions(poses=torch.tensor([[[0, 0], [0, n], [1, 1], [2, 2]]])) for n in (1, 3)]
    for as_input in (False, True):
        address = AddressConfig("shift", as_input=as_input)
        model = small_frames(mixer=mixer, mamba=MambaConfig(head_dim=8), address=address)
        one, other = (model(frames, None, each)[0] for each in known)
        assert torch.equal(one, other) != as_input


@pytest.mark.parametrize(
    "address, match",
    [
        (AddressConfig("shift"), "by poses, and there are none"),
        (AddressConfig("moves", moves=[(0.0, 1.0)]), "sums actions for its poses"),
    ],
)
def test_missing_poses_are_refused(address, match):
    with pytest.raises(ValueError, match=match):
        small_frames(address=address, ttt={"address": "place"})(random_frames(1, 2))


def test_places_that_nobody_reads_or_that_nobody_knows_are_refused():
    with pytest.raises(ValueError, match=r"address.poses is shift, and nobody reads them: set ttt"):
        small_frames(address=CELLS)
    with pytest.raises(ValueError, match=r"ttt.address is place and address.poses none"):
        small_frames(ttt={"address": "place"})
    assert small_frames(address=replace(CELLS, as_input=True)).pose_input


NUMBERS = {
    "actions": torch.tensor([[[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]]] * 2),
    "classes": torch.tensor([1, 3]),
    "seconds": torch.tensor([[0.1, 0.5, 1.0], [2.0, 0.3, 1.5]]),
}
LABELS = {"actions": torch.tensor([[0, 1, 2], [2, 1, 0]])}


@pytest.mark.parametrize("config, known", [({"action_size": 2}, NUMBERS), ({"actions": 3}, LABELS)])
def test_every_condition_changes_the_embedding_and_hidden_ones_are_as_unknown_ones(config, known):
    embedding = ConditionEmbedding(ConditionsConfig(classes=4, seconds=True, **config), 8)
    like, unknown = torch.zeros(2, 3), embedding(Conditions(), torch.zeros(2, 3))
    for name, values in known.items():
        assert (embedding(Conditions(**{name: values}), like) != unknown).any(-1).all(), name
    embedding.dropout = 1.0
    torch.testing.assert_close(embedding(Conditions(**known), like), unknown)
    assert not torch.equal(embedding.eval()(Conditions(**known), like), unknown)
