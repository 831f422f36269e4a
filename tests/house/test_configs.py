"""Sizes, mixers, contexts and corpora combine, and every layer says what it means to."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from tttvideo.apps import fit
from tttvideo.apps.cli import main
from tttvideo.backbone import Backbone
from tttvideo.weights.checkpoints import backbone_config, load_tokens_model


STEP = 2**19  # tokens of a step of the outer loop, in the paper
DEPTHS = {"tiny": 8, "125m": 24, "350m": 48, "760m": 48, "1.3b": 48}  # of Mamba's models
SIZES = [size for size in DEPTHS if size != "tiny"]
CONTEXTS = {"1k": 1024, "2k": 2048, "4k": 4096, "8k": 8192, "16k": 16384, "32k": 32768}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def layers(folder):
    return [f"{folder}/{name}" for name in fit.stems(fit.CONFIGS / folder)]


def read(name):
    return yaml.safe_load((fit.CONFIGS / f"{name}.yaml").read_text())


def mixers(size):
    """Those that are made for a size: of Mamba's models, the ones with its number of blocks."""
    wrong = tuple(f"_{depth}" for depth in DEPTHS.values() if depth != DEPTHS[size])
    return [name for name in layers("mixer") if not name.endswith(wrong)]


def leaves(tree, path=()):
    """(path, value) of everything in a nested mapping that is no mapping."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.fixture(scope="module")
def parse():
    """Names of configs -> what `tttvideo fit` would run with, as nested mappings."""

    class Parsed(Exception):
        pass

    class Command(fit.Command):
        def parse_arguments(self, parser, args):
            raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "Command", Command)
        with pytest.raises(Parsed) as parsed:
            fit.main(["fit", "--help"])
    (parser,) = parsed.value.args

    def parse(*names):
        arguments = [part for name in names for part in ("--config", str(fit.find_config(name)))]
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
    """Within 6 % of the Transformer's; in tiny Mamba's bottlenecks and TTT-MLP's W0 weigh more."""
    counts = {}
    for name in mixers(size):
        values = parse(f"text_{size}", name)["model"]["init_args"]["backbone"]
        values["vocab_size"] = 258 if size == "tiny" else 32000
        one, two = (parameters(values | {"depth": depth}) for depth in (1, 2))
        counts[name] = one + (values["depth"] - 1) * (two - one)
    most = 1.18 if size == "tiny" else 1.06
    ours = counts["mixer/attention"]
    assert {name: n / ours for name, n in counts.items() if not ours <= n <= most * ours} == {}


def test_every_rung_of_the_ladder_is_one_key_from_the_one_before():
    rungs = [dict(leaves(read(name))) for name in layers("ablation")]
    changed = []
    for before, after in pairwise(rungs):
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


def test_the_last_rung_is_ttt_linear(parse):
    last, ttt = parse("text_125m", layers("ablation")[-1]), parse("text_125m")
    for config in (last, ttt):
        config["model"]["init_args"]["backbone"].pop("linear_attention")
        config.pop("config")
    assert last == ttt


def fit_two_steps(*arguments):
    told = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu"]
    told += ["--data.window=32", "--data.batch_size=2", "--data.train=books/train"]
    main(["fit", *arguments, *told, "--model.backbone.depth=1", *QUIET])


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
def test_the_tiny_ladder_runs_two_steps_of_every_mixer_and_every_rung(
    work, monkeypatch, tmp_path, layer
):
    monkeypatch.chdir(work)
    fit_two_steps("--config", "text_tiny", "--config", layer, "--out", str(tmp_path))
    backbone = load_tokens_model(tmp_path / "last.ckpt").backbone
    assert backbone.config.mixer == read(layer)["model"]["init_args"]["backbone"]["mixer"]


def test_finetuning_goes_on_from_the_run_of_the_size_at_a_longer_context(work, monkeypatch):
    monkeypatch.chdir(work)
    small = ["--model.backbone.width=16", "--model.backbone.heads=2"]
    size = ["--config", "text_125m", "--config", "mixer/attention"]
    small += ["--trainer.accumulate_grad_batches=1", "--trainer.precision=32-true"]
    fit_two_steps(*size, *small)
    fit_two_steps(*size, "--config", "finetune/125m", *small)
    trained = load_tokens_model("out/finetune_125m/last.ckpt").trained
    assert trained["tokens"] == 2 * 2 * 2 * 32


def test_finetuning_takes_a_fifth_of_the_tokens(parse):
    for size in SIZES:
        tuned = parse(f"text_{size}", "mixer/attention", f"finetune/{size}")
        whole = parse(f"text_{size}")
        assert 5 * tuned["trainer"]["max_steps"] == whole["trainer"]["max_steps"]
        assert tuned["model"]["init_args"]["start_from"] == f"{whole['out']}/last.ckpt"
        assert tuned["out"] != whole["out"]


def test_what_is_packaged_is_told(capsys):
    for line, message in (
        ("fit --config mixer/bottle", "no packaged one (mixer/attention, mixer/attention_rope_"),
        ("fit --config nowhere", "video_tiny; and layers to put on top, in ablation/, context/"),
        ("fit --config context/8k", "context/8k changes a config: say first which"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        assert message in str(stopped.value) and "\n" not in str(stopped.value)


def test_every_config_begins_with_what_to_expect_and_fits_the_page():
    for path in fit.CONFIGS.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ") and max(map(len, lines)) <= 100, path
