"""Packaged sizes, mixers, contexts and corpora combine, and every overlay keeps its values."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from helpers.configs import new_parser
from tttvideo.apps.cli import main
from tttvideo.apps.config_files import CONFIGS, find_config, stems
from tttvideo.backbone import Backbone
from tttvideo.weights.checkpoints import backbone_config, load_tokens_model
from tttvideo.weights.video_checkpoints import load_video_model


STEP = 2**19  # tokens of a step of the outer loop, in the paper
DEPTHS = {"tiny": 8, "125m": 24, "350m": 48, "760m": 48, "1.3b": 48}  # of Mamba's models
SIZES = [size for size in DEPTHS if size != "tiny"]
CONTEXTS = {"1k": 1024, "2k": 2048, "4k": 4096, "8k": 8192, "16k": 16384, "32k": 32768}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def layers(folder):
    return [f"{folder}/{name}" for name in stems(CONFIGS / folder)]


def read(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def mixers(size):
    """Mixers for a size: of Mamba's models those with its number of blocks."""
    wrong = tuple(f"_{depth}" for depth in DEPTHS.values() if depth != DEPTHS[size])
    return [name for name in layers("mixer") if not name.endswith(wrong)]


def leaves(tree, path=()):
    """(path, value) of every value in nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.fixture(scope="module")
def parse():
    """Names of configs -> the config of `tttvideo fit`, as nested mappings."""
    parser = new_parser()

    def parse(*names):
        arguments = [part for name in names for part in ("--config", str(find_config(name)))]
        return parser.parse_args(["fit", *arguments]).fit.as_dict()

    return parse


def tokens_of_a_step(config):
    data = config["data"]["init_args"]
    return data["window"] * data["batch_size"] * config["trainer"]["accumulate_grad_batches"]


def combinations():
    """Every mixer at every context; every size meets every mixer made for it, and every context."""
    for i, mixer in enumerate(sorted({name for size in SIZES for name in mixers(size)})):
        sizes = [size for size in SIZES if mixer in mixers(size)]
        for j, context in enumerate(CONTEXTS):
            corpus = layers("corpus")[(i + j) % 3]
            yield f"text_{sizes[(i + j) % len(sizes)]}", mixer, f"context/{context}", corpus


@pytest.mark.parametrize("names", list(combinations()), ids=" ".join)
def test_sizes_mixers_contexts_and_corpora_combine(parse, names):
    config = parse(*names)
    assert tokens_of_a_step(config) == STEP
    trainer, data = config["trainer"], config["data"]["init_args"]
    assert data["window"] == CONTEXTS[names[2].removeprefix("context/")]
    assert trainer["val_check_interval"] == 500 * trainer["accumulate_grad_batches"]
    found = dict(leaves(config))
    for name in names[1:]:
        for path, value in leaves(read(name)):
            assert found[path] == value, (name, path)
    for path in (("trainer", "max_steps"), ("model", "init_args", "backbone", "width")):
        assert found[path] == dict(leaves(read(names[0])))[path]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_stands_alone_with_the_papers_tokens_per_step(parse, size):
    config = parse(f"text_{size}")
    assert tokens_of_a_step(config) == STEP
    trainer = config["trainer"]
    assert trainer["val_check_interval"] == 500 * trainer["accumulate_grad_batches"]


def parameters(values):
    with torch.device("meta"):
        return sum(p.numel() for p in Backbone(backbone_config(values)).parameters())


@pytest.mark.parametrize("size", DEPTHS)
def test_mixers_of_a_size_have_as_many_parameters(parse, size):
    """Within 9 % of the Transformer's (Gated DeltaNet has a gate more, the others are within 6 %).

    In tiny, Mamba's bottlenecks and TTT-MLP's W0 count more.
    """
    counts = {}
    for name in mixers(size):
        values = parse(f"text_{size}", name)["model"]["init_args"]["backbone"]
        values["vocab_size"] = 258 if size == "tiny" else 32000
        one, two = (parameters(values | {"depth": depth}) for depth in (1, 2))
        counts[name] = one + (values["depth"] - 1) * (two - one)
    most = 1.18 if size == "tiny" else 1.09
    least = counts["mixer/attention"]
    assert {name: n for name, n in counts.items() if not least <= n <= most * least} == {}


def test_each_step_of_the_ablation_changes_one_key():
    steps = [dict(leaves(read(name))) for name in layers("ablation")]
    changed = []
    for before, after in pairwise(steps):
        assert before.keys() == after.keys()
        changed += [[path[-1] for path in after if before[path] != after[path]]]
    assert changed == [
        ["normalise"],
        ["mixer"],
        ["learn_start"],
        ["norm"],
        ["mini_batch_size"],
        ["learn_step"],
        ["backbone"],
    ]


def test_the_last_step_of_the_ablation_is_ttt_linear(parse):
    last, ttt = parse("text_125m", layers("ablation")[-1]), parse("text_125m")
    for config in (last, ttt):
        config["model"]["init_args"]["backbone"].pop("linear_attention")
        config.pop("config")
    assert last == ttt


def fit_two_steps(*arguments):
    more = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu"]
    more += ["--data.window=32", "--data.batch_size=2", "--data.train=books/train"]
    main(["fit", *arguments, *more, "--model.backbone.depth=1", *QUIET])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a corpus of bytes, books/train."""
    folder = tmp_path_factory.mktemp("configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("a.txt").write_text("It was the best of times, it was the worst of times. " * 40)
        main(["prepare", "text", "a.txt", "--out", "books"])
    return folder


@pytest.mark.parametrize("layer", [*mixers("tiny"), *layers("ablation")])
def test_every_mixer_and_every_ablation_runs_two_steps_with_the_tiny_size(
    work, monkeypatch, tmp_path, layer
):
    monkeypatch.chdir(work)
    fit_two_steps("--config", "text_tiny", "--config", layer, "--out", str(tmp_path))
    backbone = load_tokens_model(tmp_path / "last.ckpt").backbone
    assert backbone.config.mixer == read(layer)["model"]["init_args"]["backbone"]["mixer"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """A folder with pan worlds, out/pan."""
    folder = tmp_path_factory.mktemp("worlds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["prepare", "pan", "--worlds", "20", "--frames", "40", "--out", "out/pan"])
    return folder


@pytest.mark.parametrize("layer", layers("memory"))
def test_every_memory_runs_two_steps_in_a_model_of_frames(worlds, monkeypatch, tmp_path, layer):
    monkeypatch.chdir(worlds)
    more = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu"]
    more += ["--data.window=64", "--data.batch_size=2", "--data.train=out/pan/tokens.bin", *QUIET]
    more += ["--model.frame_tokenizer=out/pan/palette.ckpt", "--out", str(tmp_path)]
    main(["fit", "--config", "video_frames_tiny", "--config", layer, *more])
    model = load_video_model(tmp_path / "last.ckpt").network
    wanted = read(layer)["model"]["init_args"]["frame_model"]
    assert model.config.mixer == wanted.pop("mixer")
    for field, values in wanted.items():
        assert values.items() <= vars(getattr(model.config, field)).items()


def test_finetuning_starts_from_the_run_of_its_size(work, monkeypatch):
    monkeypatch.chdir(work)
    small = ["--model.backbone.width=16", "--model.backbone.heads=2"]
    size = ["--config", "text_125m", "--config", "mixer/attention"]
    small += ["--trainer.accumulate_grad_batches=1", "--trainer.precision=32-true"]
    fit_two_steps(*size, *small)
    fit_two_steps(*size, "--config", "finetune/125m", *small)
    trained = load_tokens_model("out/finetune_125m/last.ckpt").trained
    assert trained["tokens"] == 2 * 2 * 2 * 32


def test_finetuning_reads_a_fifth_of_the_tokens(parse):
    for size in SIZES:
        tuned = parse(f"text_{size}", "mixer/attention", f"finetune/{size}")
        whole = parse(f"text_{size}")
        assert 5 * tuned["trainer"]["max_steps"] == whole["trainer"]["max_steps"]
        assert tuned["model"]["init_args"]["start_from"] == f"{whole['out']}/last.ckpt"
        assert tuned["out"] != whole["out"]


def test_an_unknown_config_lists_the_packaged_ones(capsys):
    for line, message in (
        ("fit --config mixer/bottle", "no packaged one (mixer/attention, mixer/attention_rope_"),
        ("fit --config nowhere", "video_tiny; and layers to put on top, in ablation/, context/"),
        ("fit --config context/8k", "context/8k is an overlay; name a base config before it"),
        ("fit --config memory/lstm", "before it: --config video_frames_tiny --config memory/lstm"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        assert message in str(stopped.value) and "\n" not in str(stopped.value)


def test_every_config_begins_with_a_comment_and_fits_100_columns():
    for path in CONFIGS.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ") and max(map(len, lines)) <= 100, path
