"""`tttvideo reproduce` runs the commands of a plan once each, and every packaged plan is sound."""

import json
import shlex
from pathlib import Path

import pytest

from tttvideo.apps import reproduce
from tttvideo.apps.cli import main
from tttvideo.apps.config_files import PLANS, packaged_names, stems
from tttvideo.apps.figure_plans import check_commands, read_plan
from tttvideo.files import locked


PLAN = """# Two commands; about 1 minutes on two cores.
title: A tiny plan
seeds: [3, 4]
sizes:
  cpu: {size: 3000, tasks: [mqar, niah]}
  gpu: {size: 9000, tasks: [mqar]}
steps:
  - prepare recall --tasks {tasks} --length 256 --size {size} --out {out}/texts.jsonl
  - prepare text {out}/texts.jsonl --out {out}/tokens_{seed}
  - prepare text {all:{out}/tokens_{seed}/train/00000.bin} --out {out}/all
"""
TWO = """# Two commands; about 1 minutes on two cores.
title: A tiny plan
sizes: {cpu: {size: 3000}, gpu: {size: 3000}}
steps:
  - prepare recall --tasks mqar --length 256 --size {size} --out {out}/texts.jsonl
  - prepare text {out}/texts.jsonl --out {out}/tokens
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The file of a plan, in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(text=TWO):
        Path("tiny.yaml").write_text(text)
        return Path("tiny.yaml")

    return write


@pytest.fixture
def ran(monkeypatch):
    """The commands that were run, in this process."""
    found = []

    def run_command(words, lock):
        found.append(shlex.join(words))
        main(words)

    monkeypatch.setattr(reproduce, "run_command", run_command)
    return found


def run(*arguments):
    main(["reproduce", "tiny.yaml", *arguments])


def record(out="out/reproduce/tiny"):
    return json.loads(Path(out, "reproduce.json").read_text())


def test_places_are_filled_from_sizes_seeds_and_the_folder(plan):
    cpu, gpu = (read_plan(plan(PLAN)).commands(Path("o"), one, {}) for one in ("cpu", "gpu"))
    recall = "prepare recall --tasks mqar niah --length 256 --size 3000 --out o/texts.jsonl"
    assert [" ".join(words) for words in cpu] == [
        recall,
        "prepare text o/texts.jsonl --out o/tokens_3",
        "prepare text o/texts.jsonl --out o/tokens_4",
        "prepare text o/tokens_3/train/00000.bin o/tokens_4/train/00000.bin --out o/all",
    ]
    assert gpu[0] == recall.replace(" niah", "").replace("3000", "9000").split()


def test_commands_run_in_processes_of_their_own_and_only_once(plan, capfd):
    plan()
    run()
    assert capfd.readouterr().out.count("done in") == 2
    steps = record()["steps"]
    assert [step["finished"] for step in steps] == [True, True]
    assert all(step["seconds"] > 0 and step["date"] and step["device"] for step in steps)
    assert Path("out/reproduce/tiny/tokens/manifest.json").is_file()
    run()
    assert capfd.readouterr().out.count("already done") == 2 and record()["steps"] == steps


def test_a_command_that_changed_is_repeated_without_what_it_wrote_and_with_all_after(plan, ran):
    plan()
    run("--out", "o")
    Path("o/tokens/left").touch()
    run("--out", "o", "--set", "size=4000")
    assert len(ran) == 4 and not Path("o/tokens/left").exists()
    plan(TWO.replace("{out}/texts.jsonl --out", "{out}/texts.jsonl --workers 1 --out"))
    run("--out", "o", "--set", "size=4000")
    assert [words.split()[1] for words in ran[4:]] == ["text"]


def test_a_command_that_writes_to_the_folder_itself_is_repeated_without_what_it_wrote(plan, ran):
    plan(
        TWO[: TWO.index("  - prepare text")]
        .replace("recall --tasks mqar", "pan")
        .replace(
            "--length 256 --size {size} --out {out}/texts.jsonl", "--worlds {size} --out {out}"
        )
    )
    run("--out", "o", "--set", "size=2")
    Path("o/left").touch()
    run("--out", "o", "--set", "size=3")
    assert len(ran) == 2 and not Path("o/left").exists() and Path("o/palette.ckpt").is_file()
    assert len(record("o")["steps"]) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no disk")], ids=str)
def test_a_run_that_stopped_resumes_with_its_command_in_what_it_wrote(
    plan, ran, monkeypatch, error
):
    plan()

    def stop(words, lock):
        if words[1] == "text":
            Path("out/reproduce/tiny/tokens").mkdir()
            raise error
        main(words)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(reproduce, "run_command", stop)
        run()
    assert [step["finished"] for step in record()["steps"]] == [True, False]
    before = Path("out/reproduce/tiny/tokens").stat().st_ino
    run()
    assert [words.split()[1] for words in ran] == ["text"]
    assert Path("out/reproduce/tiny/tokens").stat().st_ino == before
    assert [step["finished"] for step in record()["steps"]] == [True, True]


def test_a_command_that_fails_ends_the_run_in_one_line(plan, capfd):
    plan(TWO.replace("{out}/texts.jsonl --out", "nowhere.txt --out"))
    with pytest.raises(SystemExit, match=r"`tttvideo prepare text nowhere.txt .* failed \(exit"):
        run()
    assert "tttvideo prepare text: there is no" in capfd.readouterr().err


def test_two_runs_in_one_folder_are_refused(plan, ran):
    plan()
    Path("o").mkdir()
    with (
        locked(Path("o/lock")),
        pytest.raises(SystemExit, match=r"another run \(process .* is working in o; wait for"),
    ):
        run("--out", "o")
    assert not ran


REFUSED = [
    ("title: A tiny plan", "titel: A", "line 2: titel is no key of a plan"),
    ("title: A tiny plan", "title: [a]", "it must be text"),
    ("gpu: {size: 3000}", "gpu: {sizes: 3000}", "must have the same keys"),
    ("gpu: {size: 3000}", "tpu: {size: 3000}", "sizes.tpu.size is no key of a plan"),
    ("size: 3000", "size: {a: 1}", "sizes.cpu.size.a is no key of a plan"),
    ("steps:", "seeds: 3\nsteps:", "seeds is 3; it must be a list of integers"),
    ("--size {size}", "--size {sice}", "step 1: {sice} has no value; there are out, seed, size"),
    ("prepare recall", "prepare recoil", "there is no prepare 'recoil'"),
    ("prepare recall", "reproduce", "reproduce is no command that a plan may run"),
    ("prepare recall", "prepare", "there is no prepare '--tasks'"),
    ("--length", "--lenth", "--lenth does not exist; did you mean --length?"),
    ("prepare text", "fit --config nowhere", "there is no config file nowhere"),
    ("about 1 minutes on two cores", "soon", "'about N minutes on two cores' in line 1 is miss"),
    ("title: A tiny plan\n", "", "title or steps is missing"),
]


@pytest.mark.parametrize("old, new, message", REFUSED, ids=[new for _, new, _ in REFUSED])
def test_a_plan_with_a_mistake_is_refused_before_any_command(plan, ran, old, new, message):
    assert old in TWO
    plan(TWO.replace(old, new, 1))
    with pytest.raises(SystemExit) as stopped:
        run()
    assert message in str(stopped.value) and "\n" not in str(stopped.value)
    assert not ran and not Path("out").exists()


def test_a_folder_with_other_files_and_unknown_sizes_are_refused(plan):
    plan()
    Path("o").mkdir()
    Path("o/mine").touch()
    for arguments, message in (
        (["--out", "o"], "o holds other files"),
        (["--set", "size=1"], "--set needs --out"),
        (["--set", "sice=1", "--out", "p"], "has no size sice; its sizes: size"),
        (["--set", "size", "--out", "p"], "--set size must be KEY=VALUE"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(*arguments)


def test_figures_are_listed_with_their_titles_and_minutes(capsys):
    main(["reproduce"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == stems(PLANS)
    assert all(line.endswith(" minutes)") for line in lines)
    assert "reproduce" not in packaged_names()


@pytest.mark.parametrize("name", stems(PLANS))
def test_every_command_of_a_packaged_plan_can_be_parsed_and_an_hour_is_enough(name):
    plan = read_plan(PLANS / f"{name}.yaml")
    check_commands(plan, Path("out"), {})
    assert plan.minutes <= 60
