"""The report of `tttvideo predict`: two videos, a sheet of frames and curves, and metrics.

H frames of the horizon, S pixels of height and width.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from tttvideo.data.video.writer import video_writer
from tttvideo.files import replacing, write_json
from tttvideo.measures.video import frame_quality


MEASURES = ("prediction", "copy_last", "copy_tokenised", "tokenizer")
COLOURS = {"context": "#4c78a8", "truth": "#54a24b", "prediction": "#f58518"}
CURVES = "#f58518", "#888888", "#bbbbbb", "#54a24b"
PANEL, BORDER, CAPTION = 192, 6, 20  # pixels
COLUMNS = 8  # of the sheet


class PredictionReport:
    """Collects the horizon frame by frame; use as a context, set `about`, then `finish`.

    out: folder to write into, which is made here.
    fps: frames per second of the videos.
    context: the last frames before the prediction, each (S, S, 3) uint8.
    tokenised: the last of them, as the frame tokenizer gives it back.
    horizon: H, the number of frames that will be added.
    """

    def __init__(
        self,
        out: Path,
        fps: float,
        context: list[np.ndarray],
        tokenised: np.ndarray,
        horizon: int,
    ):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.fps, self.last, self.horizon = out, fps, context[-1], horizon
        self.last_tokenised = tokenised
        self.context = context
        self.psnr: dict[str, list[float]] = {name: [] for name in MEASURES}
        self.ssim: dict[str, list[float]] = {name: [] for name in MEASURES}
        self.samples: list[tuple[int, np.ndarray | None, np.ndarray]] = []
        self.count = 0
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            paths = self.out / "prediction.mp4", self.out / "compare.mp4"
            self.prediction, self.compare = (
                stack.enter_context(video_writer(path, self.fps)) for path in paths
            )
            for image in self.context:
                self.compare.write(panels(image, None, None))
            self.open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.open.__exit__(*error)

    def add(
        self, prediction: np.ndarray, true: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        """Add a predicted frame, and the true one where the video has it, plain and tokenised."""
        truth, tokenised = true or (None, None)
        self.prediction.write(prediction)
        self.compare.write(panels(self.last, truth, prediction))
        if truth is not None and tokenised is not None:
            images = prediction, self.last, self.last_tokenised, tokenised
            for name, image in zip(MEASURES, images, strict=True):
                psnr, ssim = frame_quality(image, truth)
                self.psnr[name].append(psnr)
                self.ssim[name].append(ssim)
        if self.count in evenly(self.horizon, COLUMNS):
            self.samples.append((self.count, truth, prediction))
        self.count += 1

    def finish(self, settings: dict[str, Any]) -> None:
        """Write sheet.png and metrics.json."""
        self.metrics = {"psnr": self.psnr, "ssim": self.ssim, **self.about, "settings": settings}
        write_json(self.out / "metrics.json", self.metrics)
        draw_sheet(self)


def evenly(total: int, count: int) -> list[int]:
    """At most `count` indices below `total`, the first and the last among them."""
    return sorted({round(i * (total - 1) / max(1, count - 1)) for i in range(count)})


def panels(*images: np.ndarray | None) -> np.ndarray:
    """Frames of COLOURS side by side, enlarged, with names and colours; None stays dark."""
    width, height = PANEL + 2 * BORDER, PANEL + 2 * BORDER + CAPTION
    sheet = Image.new("RGB", (width * len(images), height), "#202020")
    draw = ImageDraw.Draw(sheet)
    for column, (image, (name, colour)) in enumerate(zip(images, COLOURS.items(), strict=True)):
        left = column * width
        draw.text((left + BORDER, 3), name, fill="white", font=ImageFont.load_default(13))
        if image is not None:
            draw.rectangle((left, CAPTION, left + width - 1, height - 1), fill=colour)
            large = Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.NEAREST)
            sheet.paste(large, (left + BORDER, CAPTION + BORDER))
    return np.asarray(sheet)


def draw_sheet(report: PredictionReport) -> None:
    """Draw frames of the horizon over time, and below them PSNR by horizon and bits per frame."""
    columns = 1 + len(report.samples)
    figure = Figure(figsize=(1.25 * columns, 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.6, 2.8))[:, 0]
    axes = upper.subplots(2, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], facecolor="#dddddd")
    for row, name in enumerate(("truth", "prediction")):
        axes[row, 0].set_ylabel(name, color=COLOURS[name], fontweight="bold")
        axes[row, 0].imshow(report.last)
    axes[0, 0].set_title("last context", fontsize=8)
    for column, (number, truth, prediction) in enumerate(report.samples, 1):
        axes[0, column].set_title(f"+{(number + 1) / report.fps:.2f} s", fontsize=8)
        axes[1, column].imshow(prediction)
        if truth is not None:
            axes[0, column].imshow(truth)
    quality, bits = lower.subplots(1, 2)
    for name, colour in zip(MEASURES, CURVES, strict=True):
        values = report.psnr[name]
        quality.plot(range(1, len(values) + 1), values, color=colour, label=name.replace("_", " "))
    quality.set(xlabel="frames ahead", ylabel="PSNR (dB)")
    quality.legend(fontsize=7)
    costs = report.about["bits_per_frame"]
    bits.plot(range(1, len(costs) + 1), costs, color="#4c78a8", linewidth=0.8)
    bits.set(xlabel="frame of the video", ylabel="bits per frame", xscale="log", yscale="log")
    with replacing(report.out / "sheet.png") as partial:
        figure.savefig(partial, format="png", dpi=110)


def table(metrics: dict[str, Any]) -> str:
    """PSNR by horizon and bits by frame, as text."""
    lines = [
        "PSNR in dB of the prediction, of copying the last frame, of that copy after the frame "
        "tokenizer, and of the frame tokenizer alone (the ceiling)",
        "frames ahead  " + "".join(f"{name:>16}" for name in MEASURES),
    ]
    psnr = metrics["psnr"]
    count = len(psnr["prediction"])
    for ahead in [2**n for n in range(12) if 2**n <= count]:
        lines.append(f"{ahead:>12}  " + "".join(f"{psnr[n][ahead - 1]:>16.2f}" for n in MEASURES))
    for first in sorted({min(16, count), count} - {0}):
        means = "".join(f"{sum(psnr[name][:first]) / first:>16.2f}" for name in MEASURES)
        lines.append(f"{f'mean of {first}':>12}  {means}")
    if not count:
        lines.append("no truth: the video ends where the prediction begins")
    lines += ["", "frames of the video   bits per frame (mean)"]
    bits = metrics["bits_per_frame"]
    edges = [0, *(2**n for n in range(0, 24, 2) if 2**n < len(bits)), len(bits)]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        lines.append(f"{f'{low + 1} to {high}':>19}   {sum(bits[low:high]) / (high - low):.1f}")
    return "\n".join(lines)
