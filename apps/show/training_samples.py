"""A sample at every validation, on disk and in wandb: a continued text or clip, or frames."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from tttvideo.backbone import Backbone
from tttvideo.data.order import collate
from tttvideo.data.text.tokenizer import load_tokenizer
from tttvideo.data.video.writer import write_video
from tttvideo.files import replacing, write_text
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import decode, prefill
from tttvideo.sampling.frame_streams import decode_frames, read_frames
from tttvideo.training import FrameTokenizerModel, PixelModel, TokenModel, VideoModel
from tttvideo.training.outer_loop import OuterLoop
from tttvideo.training.video import conditions_of
from tttvideo.video.conditions import NOTHING, Conditions
from tttvideo.video.frame_model import FrameModel


TOKENS, FRAMES = 300, 8


class Samples(Callback):
    """Write a sample, step_N, to `folder`, and to wandb if it is used."""

    def __init__(self, folder: Path):
        self.folder = folder

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, model: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or not isinstance(model, OuterLoop):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = save_sample(model, self.folder / f"step_{trainer.global_step:06}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_to_wandb(logger, path, trainer.global_step)


def save_sample(model: OuterLoop, path: Path) -> Path:
    """Write a .txt, an .mp4 with the truth left and the prediction right, or a .png with frames
    above and what their tokens give back below.
    """
    data = model.data.val_dataloader().dataset
    if isinstance(model, FrameTokenizerModel):
        return save_frames(model, data, path.with_suffix(".png"))
    batch = collate([data[0]])
    if isinstance(model, PixelModel):
        return save_pixels(model, batch.frames.to(model.device), path.with_suffix(".mp4"))
    if isinstance(model, VideoModel):
        path, known = path.with_suffix(".mp4"), conditions_of(batch).to(model.device)
        return save_clip(model, model.frame_model, batch.tokens, path, known)
    assert isinstance(model, TokenModel)
    if model.header.kind == "video":
        return save_clip(model, model.backbone, batch.tokens, path.with_suffix(".mp4"))
    return save_text(model, batch.tokens.to(model.device), path.with_suffix(".txt"))


def save_frames(model: FrameTokenizerModel, frames: Sequence[torch.Tensor], path: Path) -> Path:
    """Write `FRAMES` frames, evenly spaced, and what their tokens give back."""
    places = range(0, len(frames), max(1, len(frames) // FRAMES))
    shown = torch.stack([frames[place] for place in places[:FRAMES]]).to(model.device)
    again = model.tokenizer.decode(model.tokenizer.encode(shown))
    images = rearrange(torch.cat((shown, again)), "n h w c -> n c h w").cpu()
    with replacing(path) as partial:
        to_pil_image(make_grid(images, nrow=len(shown))).save(partial, "png")
    return path


def save_text(model: TokenModel, window: torch.Tensor, path: Path) -> Path:
    """Write the first half of a window (1, T) and 300 tokens that the model appends."""
    prompt = window[:, : window.shape[1] // 2]
    prefix = prefill(model.backbone, prompt)
    chosen = decode(model.backbone, prefix, TOKENS, Chooser(temperature=0.8, seed=0))
    tokens = [int(token) for token in chosen]
    header = model.header
    marks = header.bos, header.eos
    tokenizer = load_tokenizer(header.tokenizer, model.data.tokenizer_json, marks)
    text = [tokenizer.decoder()(part, final=True) for part in (prompt[0].tolist(), tokens)]
    write_text(path, "\n--- continued by the model ---\n".join(text) + "\n")
    return path


def save_clip(
    model: TokenModel | VideoModel,
    network: Backbone | FrameModel,
    window: torch.Tensor,
    path: Path,
    conditions: Conditions = NOTHING,
) -> Path:
    """Write the frames of a window (1, T + P), and beside them the last 8 as predicted."""
    frames = rearrange(window, "1 (f p) -> 1 f p", p=model.header.frame).to(model.device)
    count = frames.shape[1]
    known = max(1, count - FRAMES)
    _, prefix = read_frames(network, frames[:, :known], None, conditions.frames(0, known))
    ahead = conditions.frames(known, count - 1)
    predicted = decode_frames(network, prefix, count - known, Chooser(temperature=0), ahead)
    tokens = torch.cat([frames[0], frames[0, :known], *predicted])
    assert model.frame_tokenizer is not None  # of a model of video
    images = rearrange(model.frame_tokenizer.decode(tokens), "(p f) h w c -> p f h w c", p=2)
    return write_pair(path, images, model.header.fps or 10)


@torch.inference_mode()
def save_pixels(model: PixelModel, frames: torch.Tensor, path: Path) -> Path:
    """Write a clip (1, F, S, S, 3), and beside it the same as predicted after its context."""
    ahead = model.predict(frames)[:, model.context - 1 :].clamp(0, 1)
    predicted = torch.cat((frames[:, : model.context], (255 * ahead).round().to(frames.dtype)), 1)
    return write_pair(path, torch.cat((frames, predicted)), 10)


def write_pair(path: Path, images: torch.Tensor, fps: float) -> Path:
    """Write two clips (2, F, S, S, 3) side by side."""
    frames = rearrange(images.cpu(), "p f h w c -> f p c h w")
    sheets = torch.stack([make_grid(pair, nrow=2) for pair in frames])
    write_video(path, rearrange(sheets, "f c h w -> f h w c").numpy(), fps)
    return path


def log_to_wandb(logger: WandbLogger, path: Path, step: int) -> None:
    import wandb

    if path.suffix == ".mp4":
        sample: Any = wandb.Video(str(path), format="mp4")
    elif path.suffix == ".png":
        sample = wandb.Image(str(path))
    else:
        sample = wandb.Html(f"<pre>{escape(path.read_text(encoding='utf-8'), quote=False)}</pre>")
    logger.experiment.log({"sample": sample, "trainer/global_step": step})
