"""The page and the pictures of `tttvideo evaluate video`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel
from tttvideo.measures.continuation_summary import over_seeds
from tttvideo.measures.perception import FRECHET, PAIRS

from .demo_sheets import OTHER, TRUTH, draw_clips


Seeds = Sequence[dict[str, Any]]
CONTROLS = {"copy": "last frame, repeated", "empty": "empty background"}
CEILING = "tokenizer alone"
FORMS = {"psnr": ".2f", "ssim": ".4f", "mse": ".5f", "mse_sum": ".2f"}
HEADS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "mse": "MSE of a pixel",
    "mse_sum": "squared error of a frame, summed",
}
GREY = "#888888"
COLOURS = "#0072b2", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442"


def video_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    plan, models = record["plan"], record["models"]
    parts = [
        "# tttvideo evaluate video",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        about_data(record),
        "## Against the truth",
        "PSNR, SSIM and MSE are of each frame, values from 0 to 1, then means over frames and "
        "videos; the sum over the pixels of a frame is what much of the field calls MSE. "
        + about_alive(models, plan["horizon"]),
        quality_table(models, "raw", plan),
    ]
    if any("decoded" in one["overall"] for seeds in models.values() for one in seeds):
        parts += [
            "## Against decoded truth",
            "The truth, and what stands beside the prediction, after the model's own frame "
            "tokenizer: its losses do not count here.",
            quality_table(models, "decoded", plan),
        ]
    parts += ["## By horizon", horizon_table(models, plan)]
    parts += ["## Bits", bits_text(plan), *bits_tables(models)]
    parts += ["## Measures by networks", *network_parts(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def about_data(record: dict[str, Any]) -> str:
    data, plan, n = record["data"], record["plan"], record["plan"]["samples"]
    protocol = record["protocol"]
    short = f" ({data['too_short']} are shorter and left out)" if data["too_short"] else ""
    samples = "one continuation is" if n == 1 else f"{n} continuations are"
    best = (
        ""
        if n == 1
        else f" Mean: over the {n} continuations of each video. Best of {n}: of each video the one "
        "whose mean over the horizon is best by that measure, chosen with the truth at hand."
    )
    return (
        f"{data['videos']} videos of {data['path']}{short}, {data['size']} pixels. "
        + (f"Protocol {protocol.replace('-', ' -> ')}: t" if protocol else "T")
        + f"he first {plan['context']} frames are read, {plan['horizon']} are predicted; {samples} "
        f"drawn of each video at temperature {plan['temperature']:g}, top-p {plan['top_p']:g}"
        + (f", top-k {plan['top_k']}" if plan["top_k"] else "")
        + f".{best} Intervals are of 95 % by Student's t: over seeds where a model has several, "
        "else over videos."
    )


def about_alive(models: Mapping[str, Seeds], horizon: int) -> str:
    if not has_empty(models):
        return ""
    return (
        "Alive: the share of continuations whose coloured area, at the last frame, is 0.6 to 1.6 "
        f"times the true one, {horizon} frames ahead; an empty background is close in PSNR and "
        "never alive."
    )


def has_empty(models: Mapping[str, Seeds]) -> bool:
    return all("empty" in one["alive"] for seeds in models.values() for one in seeds)


def quality_table(models: Mapping[str, Seeds], truth: str, plan: dict[str, Any]) -> str:
    """A row for each model's mean, best and ceiling, and for each control."""
    alive = truth == "raw" and has_empty(models)
    rows = []
    for name, seeds in models.items():
        if not all(truth in one["overall"] for one in seeds):
            continue
        label = f"{name} ({len(seeds)} seeds)" if len(seeds) > 1 else name
        kinds = {"mean": label, "best": f"{label}, best of {plan['samples']}"}
        if plan["samples"] == 1:
            kinds = {"mean": label}
        rows += [
            quality_row(seeds, truth, "prediction", kind, kinds[kind], alive) for kind in kinds
        ]
        if truth == "raw" and "tokenizer" in seeds[0]["overall"][truth]:
            what = f"{name}, {CEILING}"
            rows.append(quality_row(seeds, truth, "tokenizer", "mean", what, alive))
        if truth == "decoded":
            rows += control_rows(seeds, truth, f"{name}, ", alive)
    if truth == "raw":
        rows += control_rows(next(iter(models.values())), truth, "", alive)
    heads = ["", *HEADS.values(), *(["alive"] if alive else [])]
    return markdown_table(heads, rows)


def control_rows(seeds: Seeds, truth: str, start: str, alive: bool) -> list[list[str]]:
    return [
        quality_row(seeds, truth, who, "mean", start + label, alive)
        for who, label in CONTROLS.items()
        if who in seeds[0]["overall"][truth]
    ]


def quality_row(
    seeds: Seeds, truth: str, who: str, kind: str, label: str, alive: bool
) -> list[str]:
    found = [one["overall"][truth][who] for one in seeds]
    cells = [interval([x[m][kind] for x in found], form) for m, form in FORMS.items()]
    if alive:
        share = np.mean([one["alive"][who][-1] for one in seeds])
        cells.append("" if kind == "best" else f"{share:.2f}")
    return [label, *cells]


def interval(values: Sequence[dict[str, Any]], form: str) -> str:
    found = over_seeds(values)
    margin = found["margin"]
    return f"{found['value']:{form}}" + ("" if margin is None else f" ± {margin:{form}}")


def curve(seeds: Seeds, read: Callable[[dict[str, Any]], list[float]]) -> np.ndarray:
    """The mean over seeds of numbers by horizon or by frame."""
    return np.mean([read(one) for one in seeds], axis=0)


def error_curve(seeds: Seeds, who: str, measure: str, kind: str = "mean") -> np.ndarray:
    return curve(seeds, lambda one: one["by_horizon"]["raw"][who][measure][kind])


def horizon_table(models: Mapping[str, Seeds], plan: dict[str, Any]) -> str:
    """PSNR and SSIM against the truth, some frames ahead."""
    horizon = plan["horizon"]
    ahead = [n for n in (2**k for k in range(12)) if n < horizon] + [horizon]
    rows = []
    first = next(iter(models.values()))
    series = {name: (seeds, "prediction") for name, seeds in models.items()}
    series |= {
        f"{name}, {CEILING}": (seeds, "tokenizer")
        for name, seeds in models.items()
        if "tokenizer" in seeds[0]["overall"]["raw"]
    }
    series |= {
        label: (first, who) for who, label in CONTROLS.items() if who in first[0]["overall"]["raw"]
    }
    for measure in ("psnr", "ssim"):
        for name, (seeds, who) in series.items():
            values = error_curve(seeds, who, measure)
            cells = [f"{values[n - 1]:{FORMS[measure]}}" for n in ahead]
            rows.append([f"{HEADS[measure]}: {name}", *cells])
    return markdown_table(["frames ahead", *(str(n) for n in ahead)], rows)


def bits_text(plan: dict[str, Any]) -> str:
    return (
        "Bits of a frame given all true frames before it, and per token of it. Bits at horizon h "
        f"are those of frame {plan['context']} + h with the true frames between also read: a model "
        "of the next frame gives no other number, as that of a frame further ahead would be a sum "
        "over all frames between. They tell how costly the predicted part is, not how well it is "
        "foreseen."
    )


def bits_tables(models: Mapping[str, Seeds]) -> list[str]:
    """Bits of the frames that are predicted, and by frame index."""
    coded = {name: seeds for name, seeds in models.items() if seeds[0]["bits"]}
    without = [name for name in models if name not in coded]
    parts = [f"No bits: {', '.join(without)}, without tokens."] if without else []
    if not coded:
        return parts
    rows = []
    for name, seeds in coded.items():
        ahead = [one["bits"]["ahead"] for one in seeds]
        tokens = seeds[0]["tokens"]
        per_token = [{**x, "value": x["value"] / tokens} for x in ahead]
        values = curve(seeds, lambda one: one["bits"]["by_horizon"])
        ends = f"{values[0]:.1f}", f"{values[-1]:.1f}"
        token = f"{over_seeds(per_token)['value']:.4f}"
        rows.append([name, interval(ahead, ".2f"), token, *ends])
    heads = ["", "bits per frame, horizon", "per token", "first frame ahead", "last frame ahead"]
    first = next(iter(coded.values()))[0]["bits"]["first_frame"]
    chosen = [n for n, frame in enumerate(first) if frame & (frame - 1) == 0 or n == len(first) - 1]
    by_index = [
        [name, *(f"{curve(seeds, lambda one: one['bits']['by_index'])[n]:.1f}" for n in chosen)]
        for name, seeds in coded.items()
    ]
    frames = [str(first[n]) if n < 32 else f"from {first[n]:,}" for n in chosen]
    return [
        *parts,
        markdown_table(heads, rows),
        markdown_table(["bits per frame, frame", *frames], by_index),
    ]


def network_parts(record: dict[str, Any]) -> list[str]:
    """cvvdp, LPIPS and Frechet distances, or why they are not computed."""
    models, plan = record["models"], record["plan"]
    first = next(iter(models.values()))[0]
    kinds = [("pairs", name) for name in PAIRS] + [("frechet", name) for name in FRECHET]
    rows = [
        row for kind in kinds if kind[1] in first[kind[0]] for row in network_rows(models, *kind)
    ]
    parts = []
    if rows:
        count, frames = first["perceived"], plan["horizon"]
        with_context = plan["frechet_context"]
        frames += plan["context"] if with_context else 0
        context = (
            f"{'with' if with_context else 'without'} the {plan['context']} true context frames"
        )
        parts += [
            f"Of the first sample of {count} videos. cvvdp in JOD, of which 10 is no visible "
            "difference (ColorVideoVDP, display standard_4k). Frechet distances are between "
            f"{count} predicted and {count} true clips of {frames} frames, {context}; "
            "frechet_transnet, over features of TransNetV2, is no FVD. All are biased by small "
            "numbers of clips: compare equal numbers only.",
            markdown_table(["", "measure", "value"], rows),
        ]
    names = {kind: name for name, kind in FRECHET.items()}
    missing = [
        f"- {names.get(x, x)}: not computed ({why})" for x, why in record["not_computed"].items()
    ]
    return [*parts, "\n".join(missing)]


def network_rows(models: Mapping[str, Seeds], kind: str, measure: str) -> list[list[str]]:
    """Of each model and its ceiling; of the controls by the first model, as they are the same."""
    rows = []
    for model, seeds in models.items():
        labels = {"prediction": model, "tokenizer": f"{model}, {CEILING}"}
        if seeds is next(iter(models.values())):
            labels |= CONTROLS
        found = [one[kind][measure] for one in seeds]
        for who, label in labels.items():
            if all(who in one for one in found):
                values = [one[who] for one in found]
                pair = kind == "pairs"
                cell = interval(values, ".3f") if pair else f"{np.mean(values):.3f}"
                rows.append([label, measure, cell])
    return rows


def draw_video(record: dict[str, Any], path: Path) -> None:
    """Bits by frame, PSNR and SSIM by horizon, and on drawn videos what is alive."""
    models = record["models"]
    alive = has_empty(models)
    figure = Figure(figsize=(4 * (3 + alive), 3.6), layout="constrained")
    panels = figure.subplots(1, 3 + alive)
    draw_bits(panels[0], models, record["plan"]["context"])
    for panel, measure in zip(panels[1:3], ("psnr", "ssim"), strict=True):
        draw_errors(panel, models, measure)
        panel.set(xlabel="frames ahead", ylabel=HEADS[measure])
        style_panel(panel)
    if alive:
        draw_alive(panels[3], models)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save_figure(figure, path)


def coloured(models: Mapping[str, Seeds]) -> list[tuple[str, Seeds, str]]:
    return [(n, x, COLOURS[k % len(COLOURS)]) for k, (n, x) in enumerate(models.items())]


def draw_bits(panel: Axes, models: Mapping[str, Seeds], context: int) -> None:
    for name, seeds, colour in coloured(models):
        if seeds[0]["bits"]:
            y = curve(seeds, lambda one: one["bits"]["by_index"])
            panel.plot(seeds[0]["bits"]["first_frame"], y, color=colour, label=name)
    panel.axvline(context + 0.5, color=GREY, linewidth=0.8, linestyle=":")
    panel.set(xscale="log", yscale="log", xlabel="frame of the video (dots: end of the context)")
    panel.set_ylabel("bits of the frame, true frames before it", fontsize=8)
    style_panel(panel)
    panel.tick_params(which="both", labelsize=8)


def draw_errors(panel: Axes, models: Mapping[str, Seeds], measure: str) -> None:
    for name, seeds, colour in coloured(models):
        y = error_curve(seeds, "prediction", measure)
        x = range(1, len(y) + 1)
        panel.plot(x, y, color=colour, label=name)
        raw = seeds[0]["by_horizon"]["raw"]
        if "best" in raw["prediction"][measure]:
            best = error_curve(seeds, "prediction", measure, "best")
            panel.plot(x, best, color=colour, linewidth=0.9, linestyle="--", label=f"{name}, best")
        if "tokenizer" in raw:
            y = error_curve(seeds, "tokenizer", measure)
            panel.plot(x, y, color=colour, linewidth=0.9, linestyle=":", label=f"{name}, {CEILING}")
    first = next(iter(models.values()))
    for who, style in (("copy", "-"), ("empty", "--")):
        if who in first[0]["by_horizon"]["raw"]:
            y = error_curve(first, who, measure)
            panel.plot(range(1, len(y) + 1), y, color=GREY, linestyle=style, label=CONTROLS[who])


def draw_alive(panel: Axes, models: Mapping[str, Seeds]) -> None:
    for name, seeds, colour in coloured(models):
        y = curve(seeds, lambda one: one["alive"]["prediction"])
        panel.plot(range(1, len(y) + 1), y, color=colour, label=name)
    first = next(iter(models.values()))
    for who, style in (("copy", "-"), ("empty", "--")):
        y = np.mean([one["alive"][who] for one in first], axis=0)
        panel.plot(range(1, len(y) + 1), y, color=GREY, linestyle=style)
    panel.set(xlabel="frames ahead", ylabel="share of continuations alive", ylim=(-0.03, 1.03))
    style_panel(panel)


def draw_sheet(path: Path, records: Mapping[str, Mapping[str, np.ndarray]], fps: float) -> None:
    """Frames of the first videos: the truth, and the first sample of the first seed of each model.

    records: of the first batch, by model.
    """
    first = next(iter(records.values()))
    rows = {"truth": (TRUTH, first["shown/truth"])}
    for (name, record), colour in zip(records.items(), COLOURS * len(records), strict=False):
        rows[name] = colour, record["shown/prediction"]
    if "shown/tokenizer" in first:
        rows[CEILING] = OTHER, first["shown/tokenizer"]
    draw_clips(path, first["shown/last"][:, 0], rows, fps or 25.0)
