"""Laws of verify: what reads a stream has four properties, and each broken model lacks its own."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from helpers.models import small, small_frames
from tttvideo.measures import verify as measured
from tttvideo.measures.played import PlayedVideo
from tttvideo.measures.stream_costs import StreamCosts, stream_costs
from tttvideo.measures.verify import any_cut, cost, no_leak, saved_state, verify
from tttvideo.mixers import attention
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import NOTHING, Conditions, ConditionsConfig
from tttvideo.video.frame_head import HeadConfig


FRAMES = 120  # of a stream
STEERED = {
    "conditions": ConditionsConfig(actions=4),
    "address": AddressConfig(poses="shift", as_input=True),
    "ttt": {"address": "place"},
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name, value in {"READ": 14, "CUT": 40, "CUTS": 7}.items():
        monkeypatch.setattr(measured, name, value)


def played(model, frames=17, known=NOTHING):
    tokens = torch.randint(model.config.vocab_size, (frames, 6))
    return PlayedVideo(tokens, known)


def token_model(**changes):
    return small(grid=(2, 3), window_frames=1, dtype=torch.float32, **changes)


def frame_model(**changes):
    return small_frames(dtype=torch.float32, std=0.2, **changes)


def quiet(*_):
    return nullcontext(lambda _: None)


MODELS = {
    "frames": frame_model,
    "frames, attention in the head": lambda: frame_model(head=HeadConfig(depth=2, order="raster")),
    "frames, one wave": lambda: frame_model(head=HeadConfig(order="parallel", copy_last=True)),
    "frames, no memory": lambda: frame_model(mixer=None),
    "tokens": token_model,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_reads_a_stream_has_all_properties(name, monkeypatch):
    monkeypatch.setattr(measured, "SLOWER", 9.0)  # a busy machine, and 30 frames
    model = MODELS[name]()
    found = list(verify(model, played(model), FRAMES, quiet))
    assert [one.name for one in found] == ["no leak", "any cut", "saved state", "cost"]
    assert all(one.holds for one in found), found
    assert found[0].figures["runs"] == 14 and found[3].figures["frames"] == FRAMES


def test_poses_and_actions_are_read_and_replaced_with_their_frames():
    model = frame_model(**STEERED)
    known = Conditions(torch.randint(4, (1, 17)), torch.randn(1, 18, 2))
    assert all(one(model, played(model, 17, known)).holds for one in (no_leak, any_cut))


def sees_next_frame(model):
    """Its window is a frame late."""
    window = model.window.forward
    model.window.forward = lambda frames, recent: window(frames.roll(-1, 1), recent)
    return model


def sees_next_pose(model):
    """It is told where the frame after the next one is taken."""
    forward = model.forward

    def leaking(frames, state=None, known=NOTHING):
        return forward(frames, state, replace(known, poses=known.poses.roll(-1, 1)))

    model.forward = leaking
    return model


def reads_after_the_end(model):
    """Every frame reads the fast weights that are left after all frames of the call, as a released
    path of others does."""
    forward = model.forward

    def leaking(frames, state=None, known=NOTHING):
        state = state or model.init_state(len(frames))
        _, after = forward(frames, state, known)
        vectors, _ = forward(frames, replace(state, blocks=after.blocks), known)
        return vectors, after

    model.forward = leaking
    return model


def head_sees_all(model):
    """A token sees itself and those made after it."""
    model.head.seen.fill_(True)
    return model


LEAKING = {
    "next frame": lambda: sees_next_frame(frame_model()),
    "weights after the end": lambda: reads_after_the_end(frame_model()),
    "whole frame in the head": lambda: head_sees_all(frame_model()),
    "pose after the next": lambda: sees_next_pose(frame_model(**STEERED)),
}


@pytest.mark.parametrize("name", LEAKING)
def test_a_model_that_sees_later_frames_or_tokens_is_found(name):
    model = LEAKING[name]()
    known = Conditions(torch.randint(4, (1, 17)), torch.randn(1, 18, 2))
    found = no_leak(model, played(model, 17, known if "pose" in name else NOTHING))
    assert not found.holds and found.figures["leaks"]


def test_a_token_model_without_a_causal_mask_is_found(monkeypatch):
    model = token_model(mixer="attention")
    assert no_leak(model, played(model)).holds
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention, "attend", lambda q, k, v, *_: attend(q, k, v))
    assert not no_leak(model, played(model)).holds


def test_a_model_that_forgets_its_state_between_calls_fails_at_cuts():
    model = frame_model()
    forward = model.forward
    model.forward = lambda frames, state=None, known=NOTHING: forward(frames, None, known)
    assert no_leak(model, played(model)).holds
    found = any_cut(model, played(model))
    assert not found.holds and found.figures["frame by frame"]["bits"] > 1e-3


def test_a_state_that_is_rounded_in_its_file_is_found(monkeypatch):
    model, load = frame_model(), measured.load_state_file

    def rounded(path, model):
        saved = load(path, model)
        return replace(saved, prefix=replace(saved.prefix, vectors=saved.prefix.vectors.half()))

    monkeypatch.setattr(measured, "load_state_file", rounded)
    assert saved_state(model, played(model)).holds is False


@pytest.mark.parametrize("make", [frame_model, token_model], ids=["frames", "tokens"])
def test_attention_with_a_full_cache_fails_before_the_stream_ends(make):
    """P tokens of 2 blocks, keys and values of 16 numbers of 4 bytes."""
    model = make(mixer="attention")
    found = list(verify(model, played(model), 100_000, quiet))
    assert [one.holds for one in found] == [True, True, True, False]
    assert found[3].figures["frames"] < 300
    assert found[3].figures["bytes_per_frame"] == 6 * 2 * 2 * 16 * 4


def test_attention_with_a_window_keeps_its_size():
    config = attention.AttentionConfig(window=30)
    model = token_model(mixer="attention", attention=config)
    found = list(verify(model, played(model), FRAMES, quiet))
    assert "bytes_per_frame" not in found[3].figures


def test_a_model_that_slows_down_with_its_stream_fails_the_cost():
    model = frame_model()
    forward = model.forward

    def slowing(frames, state=None, known=NOTHING):
        before = 0 if state is None else int(state.pose)
        sum(range(1000 * before))
        vectors, after = forward(frames, state, known)
        return vectors, replace(after, pose=torch.full((1,), before + frames.shape[1]))

    model.forward = slowing
    found = cost(stream_costs(model, played(model), FRAMES, bound=0.05), FRAMES)
    assert not found.holds and "a frame takes longer" in found.sentence


def test_the_bounds_of_the_cost_are_five_percent_of_time_and_one_of_memory():
    def costs(last, resident):
        seconds = {"first": [1.0] * 9, "last": [last] * 4 + [50.0] * 2 + [last] * 3}
        return cost(StreamCosts(400, 100, [8] * 9, [1000] * 4 + resident, seconds, "s"), 400)

    assert costs(1.04, [1009] * 4).holds
    assert "takes longer: +6.0%" in costs(1.06, [1009] * 4).sentence
    assert not costs(1.06, [1009] * 4).holds
    assert "process grows: +1.1%" in costs(1.04, [1011] * 4).sentence


def test_a_video_is_mirrored_with_what_is_known_of_its_frames():
    tokens = torch.arange(4)[:, None].expand(4, 6)
    known = Conditions(None, torch.arange(5.0).view(1, 5, 1), None, torch.arange(4.0)[None])
    video = PlayedVideo(tokens, known)
    frames, found = video.read(2, 10)
    assert frames[0, :, 0].tolist() == [2, 3, 2, 1, 0, 1, 2, 3]
    assert found.poses[0, :, 0].tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2]
    assert found.seconds[0].tolist() == [2, 2, 1, 0, 0, 1, 2, 2]
    assert PlayedVideo(tokens[:1], NOTHING).places(0, 3).tolist() == [0, 0, 0]


def test_a_video_with_actions_begins_again_since_none_lead_back():
    known = Conditions(torch.arange(4)[None], torch.arange(5.0).view(1, 5, 1))
    video = PlayedVideo(torch.arange(4)[:, None].expand(4, 6), known)
    frames, found = video.read(2, 7)
    assert frames[0, :, 0].tolist() == found.actions[0].tolist() == [2, 3, 0, 1, 2]
    assert found.poses[0, :, 0].tolist() == [2, 3, 0, 1, 2, 3]
