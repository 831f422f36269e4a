"""Laws of drawn worlds: pure functions of the seed, written without loss, true to their ages."""

import numpy as np
import pytest
import torch

from tttvideo.data.video.conditions import read_conditions
from tttvideo.data.video.drawn import WORLDS, claim_folder, draw_videos
from tttvideo.data.video.drawn.cells import GREY, GROUND, LAST, NEVER, PATCH, WHITE, border
from tttvideo.data.video.drawn.code import code_video
from tttvideo.data.video.drawn.flash import flash_video
from tttvideo.data.video.drawn.pan import torus_picture
from tttvideo.data.video.reader import VideoReader
from tttvideo.video.frame_codec import PATCH as TOKEN
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer


KINDS = [(name, {}) for name in WORLDS] + [("pan", {"texture": True})]


def palette_of(name, colours=5):
    world = WORLDS[name]
    return PaletteTokenizer(PaletteConfig(world.size, world.greys + colours, world.greys))


def video_of(name, frames, seed=0, size=None, **options):
    world = WORLDS[name]
    own = {key: value for key, value in world.options.items() if key != "colours"} | options
    palette = palette_of(name).palette.numpy()
    return world.draw(frames, size or world.size, seed, palette, **own)


def draw(name, frames=9, seed=0, **options):
    video = video_of(name, frames, seed, **options)
    return np.stack(list(video.frames)), video.conditions


def drawn_cells(make, frames=600, grid=8, colours=3, **options):
    return make(frames, grid, np.random.default_rng(3), colours, **options)


@pytest.mark.parametrize(("name", "options"), KINDS, ids=str)
def test_the_same_seed_draws_the_same_video_and_another_another(name, options):
    drawn = [draw(name, 60, seed, **options) for seed in ((1, 2), (1, 2), (1, 3))]
    (first, known), (again, known_again), (other, _) = drawn
    assert first.shape == (60, WORLDS[name].size, WORLDS[name].size, 3)
    assert np.array_equal(first, again)
    assert all(np.array_equal(known[key], known_again[key]) for key in known)
    assert not np.array_equal(other, first)


@pytest.mark.parametrize(("name", "options"), KINDS, ids=str)
def test_a_written_video_is_read_back_by_decord_bit_by_bit(tmp_path, name, options):
    world, (frames, known) = WORLDS[name], draw(name, frames=50, **options)
    video = video_of(name, 50, **options)
    draw_videos(tmp_path, {"train": 1}, lambda which: video, world.fps, lambda count: None)
    path = tmp_path / "train" / "00000.mp4"
    reader = VideoReader(path, world.size)
    assert reader.backend == "decord" and reader.info.fps == world.fps
    assert np.array_equal(np.stack([frame.image for frame in reader]), frames)
    found = read_conditions(path, None, 50)
    assert found.keys() == known.keys()
    assert all(np.array_equal(found[key], known[key]) for key in known)


@pytest.mark.parametrize("name", [name for name in WORLDS if "colours" in WORLDS[name].options])
def test_the_palette_gives_a_token_for_every_cell_and_an_age_for_every_token(name):
    assert PATCH == TOKEN
    frames, known = draw(name, frames=70)
    palette = palette_of(name)
    tokens = palette.encode(torch.from_numpy(frames))
    assert known["ages"].shape == tokens.shape
    assert torch.equal(palette.decode(tokens), torch.from_numpy(frames))
    assert (known["ages"][0] == NEVER).all()


@pytest.mark.parametrize("grid", [4, 7, 8])
def test_an_answer_is_the_last_flash_which_nothing_shows_in_between(grid):
    cells, ages = drawn_cells(flash_video, grid=grid, wait=9)
    middle = slice(grid // 4, grid - grid // 4)
    shown = cells[:, middle, middle].reshape(len(cells), -1)
    assert (shown == shown[:, :1]).all() and shown.max() == WHITE + 3
    answers = np.flatnonzero(ages[:, middle, middle].min(axis=(1, 2)) > LAST)
    assert len(answers) > 10
    edge, flashes = border(grid), []
    for answer in answers:
        age = ages[answer, middle, middle]
        flash = answer - age.flat[0]
        flashes.append(flash)
        assert (age == age.flat[0]).all() and shown[answer, 0] == shown[flash, 0] > WHITE
        assert (ages[flash, middle, middle] == NEVER).all()
        assert (shown[flash + 1 : answer] == GROUND).all()
        for frame in (answer - 1, answer):
            assert set(cells[frame, *edge]) == {GREY, WHITE}
    other = np.setdiff1d(np.arange(1, len(cells)), [*answers, *answers - 1])
    assert set(np.unique(cells[other][:, *edge])) == {GROUND, GREY}
    waits = np.diff(np.flatnonzero((shown > WHITE).any(axis=1)))
    assert len(np.unique(waits)) > 5  # who counts cannot know when


def test_of_a_flash_one_frame_in_thirty_shows_something():
    """The test of dense reading: at one frame per second most flashes are not read."""
    _, ages = drawn_cells(flash_video, frames=30_000, wait=100)
    events = (ages == NEVER).all(axis=(1, 2)) | (ages[:, 4, 4] == NEVER)
    flashes = np.flatnonzero(events[1:]) + 1
    assert len(flashes) > 300
    assert (flashes % 30 == 0).mean() < 0.07


@pytest.mark.parametrize(("symbols", "distractors"), [(4, 16), (1, 0), (3, 5)])
def test_a_code_is_repeated_after_symbols_without_colour(symbols, distractors):
    options = {"symbols": symbols, "distractors": distractors}
    cells, ages = drawn_cells(code_video, frames=203, **options)
    inside, again = slice(1, -1), symbols + distractors + 1
    for begin in range(0, len(cells) - again - symbols, again + symbols):
        code, others, empty, repeated = np.split(
            cells[begin : begin + again + symbols, inside, inside],
            (symbols, symbols + distractors, again),
        )
        assert np.array_equal(code, repeated) and (empty == GROUND).all()
        assert all(
            set(np.unique(symbol)) <= {GROUND, code[i].max()} for i, symbol in enumerate(code)
        )
        assert code.max(axis=(1, 2)).min() > WHITE and (not others.size or others.max() == GREY)
        white = (cells[begin : begin + again + symbols, *border(8)] == WHITE).all(axis=1)
        assert white.tolist() == [False] * (again - 1) + [True] * (symbols + 1)
        old = ages[begin + again : begin + again + symbols, inside, inside]
        assert (old == again).all() and (ages[begin : begin + again - 1, inside, inside] < 0).all()
    assert len(np.unique(cells[:: again + symbols], axis=0)) > 3


def test_the_static_world_is_one_picture_that_is_known_from_the_second_frame_on():
    frames, known = draw("static")
    assert (frames == frames[0]).all() and len(np.unique(frames[0].reshape(-1, 3), axis=0)) == 5
    assert (known["ages"][1:] == LAST).all()


@pytest.mark.parametrize("texture", [False, True])
def test_a_place_of_the_pan_world_looks_the_same_whenever_it_is_seen(texture):
    frames, known = draw("pan", frames=80, cells=6, texture=texture)
    seen = {}
    for frame, pose, ages in zip(frames, known["poses"], known["ages"], strict=True):
        for n, age in enumerate(ages):
            row, column = divmod(n, 4)
            patch = frame[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].tobytes()
            place = (pose[0] + row) % 6, (pose[1] + column) % 6
            assert (age == NEVER) == (place not in seen)
            assert seen.setdefault(place, patch) == patch
    assert len(set(seen.values())) > (30 if texture else 4)


def test_the_ends_of_a_texture_are_joined():
    pictures = [torus_picture(9, np.random.default_rng(seed)).astype(int) for seed in range(20)]
    for axis in (0, 1):
        steps, seams = (
            np.mean([np.abs(x - np.roll(x, 1, axis)).take(rows, axis) for x in pictures])
            for rows in (np.arange(72), 0)
        )
        assert 0.5 * steps < seams < 1.5 * steps


def test_a_folder_takes_the_videos_of_one_setting_and_draws_each_once(tmp_path):
    drawn, out = [], tmp_path / "out"

    def make(which):
        drawn.append(which)
        return video_of("static", 2, which, size=8)

    settings = {"world": "static", "seed": 0}
    for counts in ({"train": 1}, {"train": 2, "held_out": 1}):
        claim_folder(out, settings, counts)
        draw_videos(out, counts, make, 30, lambda count: None)
    assert drawn == [(0, False), (1, False), (0, True)]
    for other, count, message in (
        (settings | {"seed": 1}, counts, "out was drawn with seed 0, not 1; name another folder"),
        ({"world": "static"}, counts, "out was drawn with seed 0, not None; name another"),
        (settings, {"train": 1}, "train holds more than 1 videos; name another"),
    ):
        with pytest.raises(ValueError, match=message):
            claim_folder(out, other, count)
    (out / "world.json").unlink()
    with pytest.raises(ValueError, match="out holds other files, such as"):
        claim_folder(out, settings, counts)
