"""`tttvideo evaluate scaling`: loss by size and by compute, over the runs of `tttvideo fit`."""

import argparse
import csv
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttvideo.measures.names import mixer_name


if TYPE_CHECKING:
    from tttvideo.measures.scaling import Best, PowerLaw


@dataclass
class Run:
    """What a run of `tttvideo fit` came to."""

    name: str
    mixer: str
    parameters: int
    context: int
    """tokens of a training window"""
    tokens: int
    """read in training, up to the step of the loss, as are the operations"""
    flops: float
    loss: float
    """of validation, nats per token, the last that was measured"""
    curve: list[tuple[float, float]] = field(repr=False)
    """operations and loss at each validation; but the last, none is at its schedule's end"""
    tokenizer: str


@dataclass
class Group:
    """Runs of one context that differ in size alone, and their fits; None for too few."""

    name: str
    runs: list[Run]
    by_parameters: "PowerLaw | None"
    by_flops: "PowerLaw | None"


def add_parser(kinds: Any) -> None:
    parser = kinds.add_parser(
        "scaling",
        help="loss by parameters and by operations, with fits, over many runs",
        description="Fit power laws to the last validation losses of runs of `tttvideo fit`, one "
        "per mixer and context, and find the best context for each budget of operations. The fits "
        "describe these runs and say nothing of larger ones. Writes scaling.json, .md and .png.",
        epilog="example: tttvideo evaluate scaling out/scaling/* --out out/scaling_fit",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="--out folders of `tttvideo fit`")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")


def run(options: argparse.Namespace) -> None:
    paths = [Path(path) for path in dict.fromkeys(options.runs)]
    if len(paths) < 2:
        raise ValueError(f"{paths[0]} is one run; a fit needs two or more, of different sizes")
    from tttvideo.apps.report import run_conditions, write_record
    from tttvideo.apps.show.scaling_plot import draw_scaling, markdown
    from tttvideo.files import write_text
    from tttvideo.measures.scaling import Point, best_context
    from tttvideo.progress import progress

    runs = []
    with progress("reading runs", len(paths), "runs") as advance:
        for path in paths:
            runs.append(read_run(path))
            advance(1)
    for other in runs[1:]:
        if other.tokenizer != runs[0].tokenizer:
            raise ValueError(
                f"{runs[0].name} reads tokens of {runs[0].tokenizer} and {other.name} of "
                f"{other.tokenizer}; losses per token compare within one tokenizer only"
            )
    runs.sort(key=lambda run: (run.mixer, run.context, run.flops))
    groups, best = group(runs), {}
    for mixer in dict.fromkeys(run.mixer for run in runs):
        mine = [Point(r.context, r.flops, r.loss) for r in runs if r.mixer == mixer]
        best[mixer] = best_context(mine)
    about = run_conditions("cpu")
    out = Path(options.out)
    text = markdown(groups, best, about)
    write_record(out / "scaling.json", record(groups, best, about))
    write_text(out / "scaling.md", text)
    draw_scaling(groups, best, about, out / "scaling.png")
    print(text)
    print(*sorted(out.glob("scaling.*")), sep="\n")


def read_run(path: Path) -> Run:
    """Raises ValueError for a folder without a checkpoint, a training record, or finite losses.

    Of a run with `start_from`, tokens and operations are those before it and its own, and steps are
    its own.
    """
    from tttvideo.weights.checkpoints import load_tokens_model

    if not path.is_dir():
        raise ValueError(f"there is no run folder {path}; give the --out of `tttvideo fit`")
    if not (path / "last.ckpt").is_file():
        raise ValueError(f"{path} has no last.ckpt; give the --out of a run of `tttvideo fit`")
    model = load_tokens_model(path / "last.ckpt")
    trained = model.trained
    if not trained or not trained["steps"]:
        raise ValueError(f"{path}/last.ckpt tells of no training; train it by `tttvideo fit`")
    if "before" not in trained:
        raise ValueError(
            f"{path}/last.ckpt was written by another version: it does not tell what was read "
            "before this run; train it again"
        )
    losses = {step: loss for step, loss in read_losses(path).items() if step <= trained["steps"]}
    if not losses:
        raise ValueError(f"{path} has no val_loss yet; let it train until its first validation")
    for step, loss in sorted(losses.items()):
        if not math.isfinite(loss):
            raise ValueError(
                f"{path} diverged: its val_loss at step {step} is {loss}; leave it out, or train "
                "it again with a lower learning rate"
            )
    curve = [(read_by("flops", trained, step), loss) for step, loss in sorted(losses.items())]
    flops, loss = curve[-1]
    return Run(
        name=str(path),
        mixer=mixer_name(model.backbone.config),
        parameters=sum(p.numel() for p in model.backbone.parameters()),
        context=trained["window"],
        tokens=round(read_by("tokens", trained, max(losses))),
        flops=flops,
        loss=loss,
        curve=curve,
        tokenizer=model.tokenizer,
    )


def read_by(unit: str, trained: dict[str, Any], step: int) -> float:
    """Tokens or flops up to a step of a run, whose steps all take as many."""
    before = trained["before"][unit]
    return before + (trained[unit] - before) * step / trained["steps"]


def read_losses(path: Path) -> dict[int, float]:
    """Steps done and validation loss, over all times that a run was started, in their order."""
    losses = {}
    files = path.glob("logs/version_*/metrics.csv")
    for file in sorted(files, key=lambda f: int(f.parent.name.removeprefix("version_"))):
        with open(file, newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row.get("val_loss"):
                    losses[int(row["step"]) + 1] = float(row["val_loss"])
    return losses


def group(runs: list[Run]) -> list[Group]:
    """By mixer, and by context where one mixer has several."""
    keys = dict.fromkeys((run.mixer, run.context) for run in runs)
    mixers = [mixer for mixer, _ in keys]
    groups = []
    for mixer, context in keys:
        mine = [r for r in runs if (r.mixer, r.context) == (mixer, context)]
        name = f"{mixer}, context {context:,}" if mixers.count(mixer) > 1 else mixer
        fits = (fit([getattr(r, x) for r in mine], mine) for x in ("parameters", "flops"))
        groups.append(Group(name, mine, *fits))
    return groups


def fit(x: list[float], runs: list[Run]) -> "PowerLaw | None":
    from tttvideo.measures.scaling import fit_power_law

    return fit_power_law(x, [run.loss for run in runs]) if len(set(x)) > 1 else None


def record(groups: list[Group], best: "dict[str, list[Best]]", about: dict[str, Any]) -> dict:
    return {
        **about,
        "groups": [asdict(group) for group in groups],
        "best_context": {mixer: [asdict(b) for b in found] for mixer, found in best.items()},
    }
