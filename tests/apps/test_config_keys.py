"""Keys of configs, read from source, are those of the real parser; wrong ones get one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.configs import new_parser
from tttvideo.apps.cli import main
from tttvideo.apps.config_files import CONFIGS, PLANS, find_configs, settings
from tttvideo.apps.config_keys import OPEN, Key, check_settings, listed, root_keys


TINY = ("text_tiny", "frame_tokenizer_tiny", "conv_lstm_tiny")


def leaves(tree, group=""):
    """Dotted keys of nested mappings, without init_args."""
    for name, value in tree.items():
        group_of_name = group if name == "init_args" else f"{group}{name}."
        if isinstance(value, dict) and value:
            yield from leaves(value, group_of_name)
        else:
            yield group_of_name.removesuffix(".")


@pytest.fixture(scope="module")
def parser():
    return new_parser()


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("config", TINY)
def test_keys_read_from_source_are_those_of_the_real_parser(parser, config, command):
    arguments = find_configs(["--config", config])
    real = parser.parse_args([command, *arguments])[command].as_dict()
    linked = {"model.header"}  # to the data, whatever is given
    wanted = {key for key in leaves(real) if key.split(".")[0] not in OPEN} - linked
    keys = listed(root_keys(settings(arguments), command))
    found = {name for name, key in keys if not isinstance(key.type, dict)}
    assert found == {key for key in wanted if not key.endswith("class_path")}


PACKAGED = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.parent != PLANS]


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: f"{path.parent.name}_{path.stem}")
def test_every_packaged_config_passes(path):
    size = "video_frames_tiny" if path.parent.name == "memory" else "text_tiny"
    base = [] if path.parent == CONFIGS else ["--config", size]
    check_settings(settings(find_configs([*base, "--config", str(path)])), "fit")


WRONG = [
    ("--model.backbone.widht=3", "widht does not exist; did you mean model.backbone.width?"),
    ("--model.width 3", "--model.width does not exist; did you mean model.backbone.width?"),
    ("--trainer.max_step 5", "--trainer.max_step does not exist; did you mean trainer.max_steps?"),
    ("--date.window 5", "--date.window does not exist; did you mean data.window?"),
    ("--nonsense 5", "--nonsense does not exist; `tttvideo fit --help-keys` lists all"),
    ("--data.window abc", "--data.window is abc; it must be an integer"),
    ("--data.window 1.5", "--data.window is 1.5; it must be an integer"),
    ("--data.lanes 3", "--data.lanes is 3; it must be true or false"),
    ("--model.optim.lr fast", "--model.optim.lr is fast; it must be a number"),
    ("--model.backbone.mixer foo", "mixer is foo; it must be one of ttt, attention, linear"),
    ("--model.backbone 3", "--model.backbone is 3; it must be a group of keys"),
    ("--data.train", "--data.train is without a value; it must be text"),
    ("--trainer.max_epochs x", "--trainer.max_epochs is x; it must be an integer or null"),
    ("--wandb of", "--wandb is of; it must be one of off, online, offline"),
]


@pytest.mark.parametrize("line, message", WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_key_or_value_gets_one_line_with_the_right_one(line, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_settings(settings(find_configs(["--config", "text_tiny", *line.split()])), "fit")
    assert "\n" not in str(error.value)


GOOD = ["--model.optim.lr=1e-3", "--trainer.precision bf16-mixed", "--trainer.callbacks+=Timer"]
GOOD += ["--model.backbone={depth: 4}", "--seed_everything true", "--wandb off", "--data.seed=-1"]
GOOD += ["--trainer.limit_val_batches 0.5", "--optimizer SGD", "--data.validation=null"]


@pytest.mark.parametrize("line", GOOD)
def test_right_values_pass(line):
    option, separator, value = line.partition("=")
    words = [line] if separator else line.split()
    check_settings(settings(find_configs(["--config", "text_tiny", *words])), "fit")


def test_a_wrong_key_in_a_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  init_args:\n    backbone:\n      widht: 3\n")
    with pytest.raises(ValueError, match="mine.yaml, line 4: model.backbone.widht does not exist"):
        check_settings(settings(find_configs(["--config", "text_tiny", "-c", str(path)])), "fit")


BROKEN = [
    ("a: [1", "line 1 is not valid YAML"),
    ("- a", "must be a YAML mapping"),
    ("", "must be a YAML mapping"),
    ("a: b: c", "line 1 is not valid YAML"),
]


@pytest.mark.parametrize("text, message", BROKEN, ids=[text for text, _ in BROKEN])
def test_a_broken_file_gets_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit, match=message) as stopped:
        main(["fit", "--config", str(path)])
    assert "\n" not in str(stopped.value)


def test_a_class_whose_arguments_are_unknown_accepts_everything(tmp_path, monkeypatch):
    (tmp_path / "mine_for_keys.py").write_text(
        "class Open:\n    def __init__(self, **kwargs): ...\n"
        "class Child(Open):\n    def __init__(self, extra: int = 3, **kwargs): ...\n"
        "class Typed:\n    def __init__(self, size: 'int | None' = 3): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, right in (("Open", True), ("Child", True), ("Missing", True), ("Typed", False)):
        new = settings([f"--model=mine_for_keys.{name}", "--model.anything=3"])
        if right:
            check_settings(new, "fit")
        else:
            with pytest.raises(ValueError, match="--model.anything does not exist"):
                check_settings(new, "fit")
    assert root_keys(new, "fit")["model"].type == {"size": Key(int | None, "3")}


REFUSED = ["--model.backbone.widht=3", "--data.train=nowhere", "--data.window=0", "--config=none"]


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_wrong_config_is_refused_in_a_second_without_torch_and_without_a_folder(tmp_path, wrong):
    code = f"""if True:
        import sys, time
        from tttvideo.apps.cli import main
        try:
            main(["fit", "--config", "text_tiny", "--out", "out", {wrong!r}])
        except SystemExit as stopped:
            print(stopped)
        assert "torch" not in sys.modules and time.process_time() < 1
    """
    run = [sys.executable, "-Pc", code]
    result = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("tttvideo fit: ") and result.stdout.count("\n") == 1
    assert not Path(tmp_path, "out").exists()
