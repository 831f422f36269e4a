"""Every command on tiny input, every config for two steps, resuming, and refusals of models.

Input that is refused before torch is imported is in test_refusals.py.
"""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from scipy.ndimage import gaussian_filter

from helpers.demos import small_demo
from tttvideo.apps import fit
from tttvideo.apps.cli import main
from tttvideo.apps.commands import prepare_drawn
from tttvideo.apps.evaluate.length import videos_at_once
from tttvideo.data.modules import FrameData, TokenData
from tttvideo.data.tokens import TokenFile, open_tokens
from tttvideo.data.video.conditions import read_conditions, write_conditions
from tttvideo.data.video.drawn import WORLDS, bouncing_glyphs
from tttvideo.data.video.reader import VideoReader
from tttvideo.data.video.writer import write_video
from tttvideo.measures import verify
from tttvideo.weights.checkpoints import load_frame_tokenizer, load_tokens_model
from tttvideo.weights.video_checkpoints import load_pixel_model, load_video_model


ROOT = Path(__file__).parents[2]
TEXT = "It was the best of times, it was the worst of times. " * 60
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["--model.backbone.width=16", "--model.backbone.depth=1", "--model.backbone.heads=2"]
SMALL += ["--model.backbone.mlp_width=24", *QUIET]
SMALL_FRAMES = [option.replace("backbone", "frame_model") for option in SMALL]
SMALL_FRAMES += ["--model.frame_model.first_mixer=0"]  # of one block


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with books/a.txt, corpus/, clip.mp4, and a frame tokenizer, tokens and models."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("books").mkdir()
        Path("books/a.txt").write_text(TEXT)
        Path("books/b.txt").write_text(TEXT[::-1])
        main(["prepare", "text", "books", "--out", "corpus"])
        write_video(Path("clip.mp4"), bouncing_glyphs(40), 10, lossless=True)
        fit_two_steps("frame_tokenizer_tiny", "frames", "--data.videos=[clip.mp4]", *QUIET)
        arguments = ["--frame-tokenizer", "frames/last.ckpt", "--out", "clip", "--workers", "1"]
        main(["prepare", "video", "clip.mp4", *arguments])
        fit_two_steps("video_tiny", "video", *VIDEO_DATA, *SMALL)
        fit_two_steps("video_frames_tiny", "whole", *VIDEO_DATA, *SMALL_FRAMES)
        fit_two_steps("text_tiny", "text", *TEXT_DATA, *SMALL)
    return folder


VIDEO_DATA = ["--data.train=clip/train", "--data.window=128", "--data.holdout=0.2"]
VIDEO_DATA += ["--model.frame_tokenizer=frames/last.ckpt"]
TEXT_DATA = ["--data.train=corpus/train", "--data.window=64", "--data.batch_size=2"]


@pytest.fixture(autouse=True)
def inside(request, monkeypatch):
    if "work" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("work"))


def fit_two_steps(config, out, *arguments):
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu"]
    main(["fit", "--config", config, "--out", out, *steps, *arguments])


def test_text_is_prepared_as_documents_of_bytes(work):
    file = open_tokens("corpus/train")
    assert file.starts.tolist() == [0, len(TEXT) + 2]
    bos, eos = file.header.bos, file.header.eos
    wanted = [token for text in (TEXT, TEXT[::-1]) for token in (bos, *text.encode(), eos)]
    assert file.tokens[:].tolist() == wanted


def test_video_is_prepared_as_whole_frames(work):
    header = open_tokens("clip/train").header
    assert (header.kind, header.grid, header.fps) == ("video", (8, 8), 10)
    assert header.tokens == 40 * 64
    options = ["--frame-tokenizer", "frames/last.ckpt", "--end", "1.55", "--out", "part"]
    shutil.copy("clip.mp4", "again.mp4")
    main(["prepare", "video", "clip.mp4", "again.mp4", *options])
    assert open_tokens("part/train").starts.tolist() == [0, 16 * 64]


def test_a_video_is_prepared_in_parts_and_in_more_views(work):
    options = ["--frame-tokenizer", "frames/last.ckpt", "--out", "views", "--camera-shift"]
    between = ["--start", "1", "--end", "2"]
    main(["prepare", "video", "clip.mp4", *options, *between, "--augment", "2"])
    file, whole = TokenFile("views/train/00000.bin"), open_tokens("clip/train").tokens
    lengths = np.diff([*file.starts, len(file.tokens)]) // 64
    assert lengths[0] == 10 and set(lengths[1:]) <= {5, 10}
    assert np.array_equal(file.tokens[: 10 * 64], whole[10 * 64 : 20 * 64])
    views = [file.tokens[start : start + 5 * 64].tolist() for start in file.starts]
    assert views[0] != views[1] != views[2]
    assert file.conditions["poses"].shape == (sum(lengths), 2)
    with pytest.raises(SystemExit, match="90.0 to inf s hold no frame"):
        main(["prepare", "video", "clip.mp4", *options, "--start", "90", "--out", "none"])
    assert not Path("none").exists()


def test_a_file_with_copies_needs_other_videos_for_validation(work):
    options = ["--frame-tokenizer", "frames/last.ckpt", "--augment", "1", "--out", "copied"]
    main(["prepare", "video", "clip.mp4", *options])
    with pytest.raises(ValueError, match="other views of its videos.* set data.validation"):
        TokenData("copied/train", window=128).setup("fit")
    data = TokenData("copied/train", "clip/train", window=128)
    data.setup("fit")
    assert data.train_span is None and data.validation_file.header.tokens == 40 * 64


def test_a_frame_tokenizer_learns_from_views_and_measures_on_other_videos(work):
    other = list(bouncing_glyphs(9, seed=1))
    write_video(Path("other.mp4"), other, 10, lossless=True)
    data = ["--data.videos=[clip.mp4]", "--data.validation=[other.mp4]", "--data.views=true"]
    fit_two_steps("frame_tokenizer_tiny", "viewed", *data, "--model.optim.patience=1", *QUIET)
    assert load_frame_tokenizer("viewed/last.ckpt").config.size == 64
    frames = FrameData(["clip.mp4"], ["other.mp4"], views=True)
    frames.setup("fit")
    assert frames.frames == 40 and np.array_equal(frames.held.frames, other)


def test_a_model_of_pixels_learns_from_clips_and_shows_samples(work):
    data = ["--data.videos=[clip.mp4]", "--data.frames=8", "--data.holdout=0.25"]
    small = ["--model.context=4", "--model.conv_lstm.width=8", *QUIET]
    fit_two_steps("conv_lstm_tiny", "pixels", *data, *small)
    trained = load_pixel_model("pixels/last.ckpt").trained
    assert trained == {"frames": 2 * 4 * 7, "window": 7, "steps": 2}
    assert len(list(VideoReader("pixels/samples/step_000002.mp4", 64))) == 8


def test_worlds_are_prepared_as_videos_with_what_is_known_of_them(work):
    sizes = ["--worlds=3", "--frames=9", "--size=5", "--view=2"]
    main(["prepare", "pan", *sizes, "--out", "pan"])
    file = TokenFile("pan/tokens.bin")
    assert file.starts.tolist() == [0, 36, 72] and file.header.pose_periods == (5, 5)
    assert [array.shape for array in file.conditions.values()] == [(27,), (27, 2), (27, 4)]
    tokenizer = load_frame_tokenizer("pan/palette.ckpt")
    tokens = torch.from_numpy(file.tokens.astype(int)).view(-1, 4)
    assert torch.equal(tokenizer.encode(tokenizer.decode(tokens)), tokens)
    assert tokenizer.fingerprint() == file.header.tokenizer
    data = ["--data.train=pan/tokens.bin", "--data.window=16", "--data.holdout=0.4"]
    data += ["--model.frame_tokenizer=pan/palette.ckpt", "--data.lanes=true", *SMALL]
    fit_two_steps("video_tiny", "pan_model", *data)
    assert load_tokens_model("pan_model/last.ckpt").frame_tokenizer.config == tokenizer.config


def test_a_frame_model_learns_the_worlds_it_was_given(work):
    main(["prepare", "pan", "--worlds=3", "--frames=9", "--size=5", "--view=2", "--out", "worlds"])
    data = ["--data.train=worlds/tokens.bin", "--data.window=16", "--data.batch_size=2"]
    data += ["--model.frame_tokenizer=worlds/palette.ckpt", "--data.holdout=0.4"]
    fit_two_steps("video_pan", "pan_frames", *data, *SMALL_FRAMES)
    config = load_video_model("pan_frames/last.ckpt").network.config
    assert (config.address.periods, config.grid, config.conditions.actions) == ((5, 5), (2, 2), 4)
    assert Path("pan_frames/samples/step_000002.mp4").is_file()


def test_a_frame_model_learns_walks_with_poses(work):
    write_video(Path("walk.mp4"), bouncing_glyphs(40), 10, lossless=True)
    rng = np.random.default_rng(0)
    np.save("walk.poses.npy", rng.uniform(0, (2, 2, 360), (40, 3)).astype("<f4"))
    options = ["--frame-tokenizer", "frames/last.ckpt", "--out", "walk_tokens"]
    main(["prepare", "video", "walk.mp4", *options])
    data = [VIDEO_DATA[-1], "--data.train=walk_tokens/train", "--data.window=128"]
    data += ["--data.holdout=0.4", "--model.frame_model.ttt.blocks=64"]
    fit_two_steps("video_maze", "walk_model", *data, *SMALL_FRAMES)
    own = load_video_model("walk_model/last.ckpt").network.config
    assert (own.address.poses, own.address.turn, own.ttt.blocks) == ("walk", 8.5, 64)


FEW = ["--videos=2", "--held-out=1"]


def test_glyphs_are_drawn_as_clips_that_differ(work):
    main(["prepare", "drawn", "glyphs", *FEW, "--frames=5", "--out=glyphs"])
    paths = [f"glyphs/{name}.mp4" for name in ("train/00000", "train/00001", "held_out/00000")]
    clips = [np.stack([frame.image for frame in VideoReader(path, 64)]) for path in paths]
    assert {clip.shape for clip in clips} == {(5, 64, 64, 3)}
    assert len({clip.tobytes() for clip in clips}) == 3
    options = ["--frame-tokenizer", "frames/last.ckpt", "--out", "glyph_tokens"]
    main(["prepare", "video", "glyphs/train", *options])
    assert open_tokens("glyph_tokens/train").starts.tolist() == [0, 5 * 64]


@pytest.mark.parametrize("world", ["pan", "flash", "code", "static"])
def test_cells_of_a_drawn_world_are_its_tokens(work, world):
    out = f"drawn_{world}"
    main(["prepare", "drawn", world, *FEW, "--frames=12", "--colours=4", "--out", out])
    options = ["--frame-tokenizer", f"{out}/palette.ckpt", "--out", f"{world}_cells"]
    main(["prepare", "video", f"{out}/train", *options])
    kind, file = WORLDS[world], open_tokens(f"{world}_cells/train")
    tokenizer = load_frame_tokenizer(f"{out}/palette.ckpt")
    for number, tokens in enumerate(np.split(file.tokens[:], 2)):
        own = {name: value for name, value in kind.options.items() if name != "colours"}
        palette = tokenizer.palette.numpy()
        video = kind.draw(12, kind.size, (0, number, False), palette, **own)
        frames = tokenizer.decode(torch.from_numpy(tokens.astype(int)).view(12, -1))
        assert np.array_equal(np.stack(list(video.frames)), frames)


def test_the_command_knows_every_drawn_world():
    options = {name for world in WORLDS.values() for name in world.options}
    assert prepare_drawn.WORLDS.keys() == WORLDS.keys() and prepare_drawn.OWN.keys() == options


def test_a_fit_writes_checkpoint_metrics_config_and_sample(work):
    kinds = {"text": "txt", "video": "mp4", "frames": "png"}
    for run, sample in ((run, f"step_000002.{kind}") for run, kind in kinds.items()):
        assert Path(run, "last.ckpt").is_file()
        assert Path(run, "logs/version_0/metrics.csv").is_file()
        assert Path(run, "logs/version_0/config.yaml").is_file()
        assert Path(run, "samples", sample).is_file()
    assert len(list(VideoReader(Path("video/samples/step_000002.mp4"), 64))) == 3


def test_checkpoints_load_with_weights_only(work):
    for path in ("text/last.ckpt", "video/last.ckpt", "frames/last.ckpt"):
        assert "tttvideo" in torch.load(path, weights_only=True)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("size", ["125m", "350m", "760m", "1.3b"])
def test_the_papers_configs_run_two_steps_when_made_narrow(work, size, inner, tmp_path):
    """Only width, depth and the amount of data differ from the config."""
    data = [*TEXT_DATA, "--trainer.accumulate_grad_batches=2"]
    inner = f"--model.backbone.ttt.inner={inner}"
    fit_two_steps(f"text_{size}", str(tmp_path), *data, *SMALL, inner)
    assert (tmp_path / "last.ckpt").is_file()


def losses(folder):
    """The losses of each step, in training and validation; of a repeated step, the last."""
    found = {}
    for path in sorted(Path(folder).glob("logs/*/metrics.csv")):
        with open(path) as file:
            for row in csv.DictReader(file):
                for name in ("train_loss", "val_loss"):
                    if row.get(name):
                        found[name, int(row["step"])] = row[name]
    return found


class Killed(Exception):
    pass


LANES = ["--data.lanes=true", "--data.reset_at_documents=true"]


@pytest.mark.parametrize(
    "inner, accumulate, more",
    [("linear", 1, []), ("mlp", 1, []), ("linear", 2, []), ("linear", 2, LANES)],
    ids=["linear", "mlp", "accumulated", "lanes"],
)
def test_a_killed_run_that_is_started_again_has_the_same_losses(
    work, monkeypatch, tmp_path, inner, accumulate, more
):
    arguments = ["fit", "--config", "text_tiny", *TEXT_DATA, *SMALL, "--save_every=5"]
    arguments += ["--trainer.max_steps=70", "--trainer.val_check_interval=35"]
    arguments += [f"--trainer.accumulate_grad_batches={accumulate}"]
    arguments += ["--trainer.limit_val_batches=1"]
    arguments += ["--trainer.log_every_n_steps=1", f"--model.backbone.ttt.inner={inner}", *more]
    main([*arguments, "--out", str(tmp_path / "whole")])

    class Kill(Checkpoint):  # ordered as SaveLast is, and after it
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 58:
                raise Killed

    with monkeypatch.context() as patch:
        kill = fit.SaveLast.on_train_batch_end

        def save_then_kill(self, trainer, *rest):
            kill(self, trainer, *rest)
            Kill().on_train_batch_end(trainer)

        patch.setattr(fit.SaveLast, "on_train_batch_end", save_then_kill)
        with pytest.raises(Killed):
            main([*arguments, "--out", str(tmp_path / "cut")])
    before = losses(tmp_path / "cut")
    main([*arguments, "--out", str(tmp_path / "cut")])
    whole, cut = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert len(before) < len(cut) and {("train_loss", n) for n in range(70)} < set(cut)
    assert cut == whole


def test_a_finished_run_that_is_started_again_does_nothing(work):
    before = Path("text/last.ckpt").stat()
    fit_two_steps("text_tiny", "text", *TEXT_DATA, *SMALL)
    after = Path("text/last.ckpt").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_validate_measures_the_checkpoint_of_the_run(work, capsys):
    main(["validate", "--config", "text_tiny", "--out", "text", *TEXT_DATA, *SMALL])
    assert "val_bits" in capsys.readouterr().out


def test_generate_continues_the_prompt_and_a_seed_repeats_it(work, capsys):
    arguments = ["generate", "text/last.ckpt", "--prompt", "It was", "--tokens", "20", "--seed"]
    texts = []
    for seed in ("1", "1", "2"):
        main([*arguments, seed])
        captured = capsys.readouterr()
        texts.append(captured.out)
        assert "tokens per second" in captured.err
    assert texts[0].startswith("It was") and len(texts[0]) > 10
    assert texts[0] == texts[1] != texts[2]


def test_predict_writes_videos_a_sheet_and_metrics(work, capsys):
    out = Path("seen")
    main(["predict", "video/last.ckpt", "clip.mp4", "--horizon", "0.6", "--out", str(out)])
    metrics = json.loads((out / "metrics.json").read_text())
    for measure in ("psnr", "ssim"):
        assert {name: len(v) for name, v in metrics[measure].items()} == dict.fromkeys(
            ("prediction", "copy_last", "copy_tokenised", "tokenizer"), 6
        )
    assert len(metrics["bits_per_frame"]) == 40
    assert metrics["settings"]["horizon"] == 0.6
    assert metrics["frames_per_second"]["prediction"] > 0
    assert len(list(VideoReader(out / "prediction.mp4", 64))) == 6
    assert len(list(VideoReader(out / "compare.mp4", 64))) == 30 + 6
    assert (out / "sheet.png").stat().st_size > 10_000
    assert "mean of 6" in capsys.readouterr().out


def test_predict_continues_beyond_the_end_of_the_video(work, capsys):
    arguments = ["--context", "3.8", "--horizon", "0.5", "--out", "beyond"]
    main(["predict", "video/last.ckpt", "clip.mp4", *arguments])
    metrics = json.loads(Path("beyond/metrics.json").read_text())
    assert len(metrics["psnr"]["prediction"]) == 2
    assert len(list(VideoReader(Path("beyond/prediction.mp4"), 64))) == 5
    main(["predict", "video/last.ckpt", "clip.mp4", "--context", "9", "--out", "none"])
    assert "no truth" in capsys.readouterr().out


def test_verify_passes_both_modes_and_writes_its_page(work, monkeypatch, capsys):
    monkeypatch.setattr(verify, "SLOWER", 9.0)  # of fifteen frames, on a busy machine
    for model in ("video", "whole"):
        main(["verify", f"{model}/last.ckpt", "clip.mp4", "--frames=60", f"--out=verified/{model}"])
        page, printed = Path(f"verified/{model}/verify.md").read_text(), capsys.readouterr().out
        assert page == printed and page.count(": holds.") == 4
        record = json.loads(Path(f"verified/{model}/verify.json").read_text())
        assert [one["holds"] for one in record["properties"]] == [True] * 4


def test_a_failed_verification_ends_with_an_error_that_names_the_property(work, monkeypatch):
    monkeypatch.setattr(verify, "EQUAL", -1.0)
    monkeypatch.setattr(verify, "SLOWER", 9.0)
    with pytest.raises(SystemExit, match="whole/last.ckpt failed: any cut$"):
        main(["verify", "whole/last.ckpt", "clip.mp4", "--frames=60"])


def test_no_video_is_alone_in_its_batch():
    sizes = {count: videos_at_once(count, 2) for count in range(1, 8)}
    assert sizes == {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 2, 7: 4}


def test_length_is_measured_once_and_a_batch_at_a_time(work, capsys):
    Path("lengths").mkdir()
    for name in "abcd":
        shutil.copy("clip.mp4", f"lengths/{name}.mp4")
    models = ["whole=whole/last.ckpt", "tokens=video/last.ckpt", "lengths", "--out=length"]
    options = ["--targets=5", "--batch=2", "--contexts", "4", "30", "99"]
    main(["evaluate", "length", *models, *options])
    page = capsys.readouterr().out
    assert page.count("| whole") == page.count("| tokens") == 2
    assert "Contexts of 99 frames were left out: the shortest video has 40 frames." in page
    record = json.loads(Path("length/length.json").read_text())
    assert len(record["batches"]) == 2
    assert Path("length/length.png").stat().st_size > 10_000
    main(["evaluate", "length", *models, *options])
    again = json.loads(Path("length/length.json").read_text())
    assert again["batches"] == record["batches"]
    with pytest.raises(SystemExit, match="was measured with other settings"):
        main(["evaluate", "length", *models, "--targets=6", *options[1:]])


def test_a_prediction_does_not_depend_on_what_comes_after(work, tmp_path):
    frames = [frame.image for frame in VideoReader(Path("clip.mp4"), 64)]
    write_video(tmp_path / "short.mp4", frames[:30], 10, lossless=True)
    for video, out in (("clip.mp4", "long"), (str(tmp_path / "short.mp4"), "short")):
        arguments = ["--context", "3", "--horizon", "0.4", "--out", str(tmp_path / out)]
        main(["predict", "video/last.ckpt", video, *arguments])
    long, short = (
        np.stack([f.image for f in VideoReader(tmp_path / out / "prediction.mp4", 64)])
        for out in ("long", "short")
    )
    assert np.array_equal(long, short)


def predict(model, video, out, *options):
    """The bits of the frames that are read, and the predicted frames."""
    main(["predict", f"{model}/last.ckpt", video, "--horizon=0.4", "--out", out, *options])
    bits = json.loads(Path(out, "metrics.json").read_text())["bits_per_frame"]
    return bits, [frame.image for frame in VideoReader(Path(out, "prediction.mp4"), 64)]


def assert_a_saved_state_continues(model, video, cut):
    """Two parts of a video are read as the whole, if the state of the first is loaded."""
    frames = [frame.image for frame in VideoReader(Path(video), 64)]
    for name, part in (("first", frames[:cut]), ("second", frames[cut:])):
        write_video(Path(f"{name}.mp4"), part, 10, lossless=True)
    bits, ahead = predict(model, video, f"{model}_whole")
    options = [f"--context={cut / 10}", f"--save-state={model}.state"]
    first, _ = predict(model, "first.mp4", "first", *options)
    second, later = predict(model, "second.mp4", "second", f"--load-state={model}.state")
    assert [*first, *second] == bits and np.array_equal(ahead, later)
    assert predict(model, "second.mp4", "anew")[0] != second


def test_a_frame_model_continues_from_a_saved_state(work):
    assert_a_saved_state_continues("whole", "clip.mp4", cut=16)


def test_an_array_is_continued_as_a_video_of_the_same_frames(work):
    frames = np.stack([frame.image for frame in VideoReader(Path("clip.mp4"), 64)])
    np.save("clip.npy", frames)
    np.save("clips.npy", np.stack([frames, frames]))
    bits, ahead = predict("whole", "clip.mp4", "of_file")
    same, again = predict("whole", "clip.npy", "of_array", "--fps=10")
    assert bits == same and np.array_equal(ahead, again)
    assert predict("whole", "clips.npy#1", "of_second", "--fps=10")[0] == bits
    with pytest.raises(SystemExit, match="clips.npy holds 2 videos, and one is .* clips.npy#0"):
        predict("whole", "clips.npy", "of_several")
    with pytest.raises(SystemExit, match="no video clips.npy#2; clips.npy holds 2 videos"):
        predict("whole", "clips.npy#2", "of_none")


def test_the_futures_of_a_frame_model_differ(work):
    predict("whole", "clip.mp4", "futures", "--futures=8")
    shown = [frame.image for frame in VideoReader(Path("futures/futures.mp4"), 134)]
    assert len(shown) == 4
    tiles = [shown[-1][y : y + 64, x : x + 64].astype(float) for y in (2, 68) for x in (2, 68)]
    assert all(np.abs(one - other).mean() > 5 for one, other in combinations(tiles, 2))


def test_a_model_of_a_panning_camera_predicts_with_estimated_poses(work):
    """The camera turns where the video is cut, so that what comes next is another pose."""
    random = np.random.default_rng(0).uniform(0, 255, (200, 200))
    scene = gaussian_filter(random, 2, mode="wrap")
    scene = ((scene - scene.min()) / np.ptp(scene) * 255).astype(np.uint8)
    steps = np.array([(0, 0)] + [(2, -1)] * 11 + [(-1, 3)] * 12)
    way = np.cumsum(steps, axis=0)
    frames = [scene[y : y + 64, x : x + 64, None].repeat(3, 2) for y, x in 50 + way]
    write_video(Path("pan.mp4"), frames, 10, lossless=True)
    options = ["--frame-tokenizer", "frames/last.ckpt", "--camera-shift", "--out", "pan_tokens"]
    main(["prepare", "video", "pan.mp4", *options])
    assert np.abs(TokenFile("pan_tokens/train/00000.bin").conditions["poses"] - way / 8).max() < 0.1
    address = ["--model.frame_model.address.poses=shift", "--model.frame_model.ttt.address=place"]
    data = [*VIDEO_DATA, "--data.train=pan_tokens/train"]
    fit_two_steps("video_frames_tiny", "panned", *data, *SMALL_FRAMES, *address)
    assert_a_saved_state_continues("panned", "pan.mp4", cut=12)


@pytest.fixture(scope="session")
def steered(work):
    """A model of the pan world, and a video of it with actions and poses beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        options = ["--cells=5", "--size=16", "--videos=1", "--held-out=0", "--frames=20"]
        main(["prepare", "drawn", "pan", *options, "--out", "steered"])
        main(["prepare", "pan", "--worlds=3", "--frames=9", "--size=5", "--view=2", "--out=tiles"])
        data = ["--data.train=tiles/tokens.bin", "--data.window=16", "--data.batch_size=2"]
        data += ["--model.frame_tokenizer=tiles/palette.ckpt", "--data.holdout=0.4"]
        fit_two_steps("video_pan", "steered_model", *data, *SMALL_FRAMES)
        always = "--model.frame_model.conditions.dropout=0"
        fit_two_steps("video_pan", "strict_model", *data, *SMALL_FRAMES, always)
    return Path("steered/train/00000.mp4")


def test_actions_and_poses_beside_a_video_are_read_and_others_change_the_rest(steered, capsys):
    bits, _ = predict("strict_model", str(steered), "beside")
    assert "actions of each frame: steered/train/00000.actions.npy" in capsys.readouterr().out
    used = json.loads(Path("beside/metrics.json").read_text())["conditions"]
    assert used == {n: f"steered/train/00000.{n}.npy" for n in ("actions", "poses")}
    for name in used:
        rows = np.load(steered.with_suffix(f".{name}.npy"))
        rows[17:] = (rows[17:] + 1) % 4  # frame 18 is the first that is predicted by it
        np.savetxt(f"other.{name}.csv", rows, "%d", ",")
    for name in used:
        other, _ = predict("strict_model", str(steered), "other", f"--{name}=other.{name}.csv")
        assert other[:17] == bits[:17] and other[18:] != bits[18:]


def test_a_state_of_given_poses_is_continued_with_given_poses(steered):
    frames = [frame.image for frame in VideoReader(steered, 16)]
    known = read_conditions(steered, None, 20)
    for name, first, last in (("start", 0, 9), ("end", 9, 20)):
        write_video(Path(f"{name}.mp4"), frames[first:last], 10, lossless=True)
        rows = {key: rows[first : last + 4] for key, rows in known.items()}
        write_conditions(Path(f"{name}.mp4"), **rows)
    bits, ahead = predict("strict_model", str(steered), "uncut")
    save, load = "--save-state=given.state", "--load-state=given.state"
    first, _ = predict("strict_model", "start.mp4", "start", "--context=0.9", save)
    second, later = predict("strict_model", "end.mp4", "end", load)
    assert np.allclose([*first, *second], bits, rtol=1e-4) and np.array_equal(ahead, later)
    shutil.copy("end.mp4", "bare.mp4")
    shutil.copy("end.actions.npy", "bare.actions.npy")
    with pytest.raises(SystemExit, match="the poses before it were given, and .* are estimated"):
        predict("strict_model", "bare.mp4", "bare", load)


def test_missing_conditions_are_told_or_refused_before_the_video_is_read(steered, capsys):
    shutil.copy(steered, "bare.mp4")
    Path("bare.actions.npy").unlink(missing_ok=True)
    predict("steered_model", "bare.mp4", "bare")
    told = capsys.readouterr().out
    assert "no actions beside bare.mp4, so they are missing" in told
    assert "no poses beside bare.mp4, so they are estimated" in told
    np.save("short.npy", [0] * 19)
    np.save("eight.npy", [8] * 20)
    np.save("flat.npy", np.zeros((20, 3)))
    for model, options, message in (
        (
            "strict",
            [],
            "reads actions: give --actions FILE, or put bare.actions.npy beside bare.mp4",
        ),
        ("strict", ["--actions=short.npy"], "19 rows of actions, and 16 frames of context and 4"),
        ("strict", ["--actions=eight.npy"], "integers up to 8; the model reads an integer below 4"),
        ("steered", ["--poses=flat.npy"], "poses of 3 numbers; the model reads 2 numbers of each"),
    ):
        with pytest.raises(SystemExit, match=message):
            predict(f"{model}_model", "bare.mp4", "refused", *options)
        assert not Path("refused").exists()
    with pytest.raises(SystemExit, match="--actions short.npy: whole/last.ckpt reads no actions"):
        predict("whole", "clip.mp4", "refused", "--actions=short.npy")


def test_exported_weights_are_imported_unchanged(work, tmp_path):
    main(["export", "text/last.ckpt", str(tmp_path / "hf")])
    main(["import", str(tmp_path / "hf"), str(tmp_path / "back.ckpt"), "--tokenizer", "bytes"])
    before, after = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in ("text/last.ckpt", tmp_path / "back.ckpt")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_demo_does_its_stages_once(work, monkeypatch, capsys, tmp_path):
    small_demo(monkeypatch)
    arguments = ["demo", "--out", str(tmp_path), "--steps", "2", "2", "2"]
    main(arguments)
    first = capsys.readouterr().out
    assert "already done" not in first and f"{tmp_path}/shapes/shapes.png" in first
    for name in ("shapes/shapes.png", "shapes/shapes.mp4", "world/world.png", "world/world.mp4"):
        assert (tmp_path / name).stat().st_size
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["shapes"]["quality"]["last frame, repeated"][1:] == [1.0, 1.0]
    assert numbers["shapes"]["quality"]["empty background"][1:] == [0.0, 0.0]
    assert set(numbers["shapes"]["bits_per_frame"]) == {"own", "other", "fresh"}
    assert set(numbers["world"]["by_age"]) == {"own", "other", "fresh"}
    main(arguments)
    assert capsys.readouterr().out.count("already done") == 6


@pytest.mark.slow
def test_demo_learns_a_video_of_ones_own_and_predicts_its_end(work, capsys, tmp_path):
    write_video(tmp_path / "own.mp4", bouncing_glyphs(120), 30)
    out = ["--out", str(tmp_path / "out"), "--steps", "2", "2", "2"]
    main(["demo", "--video", str(tmp_path / "own.mp4"), *out])
    shown = capsys.readouterr().out
    for words in ("frames that were learned", "frames that were never seen", "compare.mp4"):
        assert words in shown
    main(["demo", "--video", str(tmp_path / "own.mp4"), *out, "--fresh"])
    assert "already done" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_wandb_run_works_offline(work):
    """In a process of its own, because wandb's service may end later than the run."""
    arguments = ["fit", "--config", "text_tiny", "--out", "wandb_run", "--wandb", "offline"]
    arguments += [*TEXT_DATA, *SMALL, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    subprocess.run([sys.executable, "-P", "-m", "tttvideo.apps.cli", *arguments], check=True)
    assert list(Path("wandb_run/wandb").glob("offline-run-*/*.wandb"))
    assert list(Path("wandb_run/wandb").glob("offline-run-*/files/media/html/*.html"))


WRONG = [
    ("prepare video clip.mp4 --frame-tokenizer text/last.ckpt --out x", "not of frame token"),
    ("generate video/last.ckpt --prompt x", "is a model of video, not of text"),
    ("predict text/last.ckpt clip.mp4 --out x", "is a model of text"),
    ("validate --config text_tiny --data.train corpus/train --out x", "there is no x/last.ckpt"),
    ("fit --out x", "--config is missing; name a file, or one of conv_lstm_tiny, frame_"),
    ("fit --config text_tiny --data.train nowhere.bin --out x", "no token file nowhere.bin"),
    (
        "fit --config text_tiny --data.train corpus/train --model.backbone.depth 0 --out x",
        "depth is 0",
    ),
    (
        "fit --config text_tiny --data.train corpus/train --data.window 0 --out x",
        "data.window is 0; it must be 1 or more",
    ),
    (
        "fit --config text_tiny --data.train corpus/train --data.window 64 --out x "
        "--model.backbone.ttt.mini_batch_size 0",
        "ttt.mini_batch_size is 0; it must be 1 or more",
    ),
    (
        "fit --config text_tiny --data.train corpus/train --data.window 64 --out x "
        "--model.backbone.heads 3",
        "width 128 over 3 heads",
    ),
    ("fit --config text_tiny --data.train corpus/train --out text", "of another model than the"),
    ("fit --config text_tiny --trainer.logger false --out x", "use --wandb instead"),
    ("fit --config nowhere", "no config file nowhere, and no packaged one (conv_lstm_tiny, frame"),
    ("fit --config text_tiny --data.train clip.mp4 --out x", "clip.mp4 is not a token file"),
    ("fit --config text_tiny --data.train clip/train --out x", "set model.frame_tokenizer"),
    ("export video/last.ckpt x", "has no form in the reference"),
]


@pytest.mark.parametrize("line, message", WRONG, ids=[line for line, _ in WRONG])
def test_models_and_settings_that_do_not_fit_are_refused_in_one_line(work, line, message):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not Path("x").exists()


@pytest.mark.slow
def test_the_wheel_installed_elsewhere_runs(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    tops = {path.name for path in (tmp_path / "site").iterdir()}
    assert tops == {"tttvideo", next(n for n in tops if n.endswith(".dist-info"))}
    (tmp_path / "a.txt").write_text(TEXT)
    code = "import sys, tttvideo.kernels, tttvideo.training\n"
    code += "from tttvideo.apps import cli, config_files\n"
    code += "print(tttvideo.kernels.__file__, config_files.find_config('text_tiny'))\n"
    code += "cli.main(['prepare', 'text', 'a.txt', '--out', 'a'])"
    result = subprocess.run(
        [sys.executable, "-Pc", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.count(str(tmp_path / "site")) == 2
    assert open_tokens(tmp_path / "a/train").header.tokens == len(TEXT) + 2
