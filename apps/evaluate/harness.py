"""`tttvideo evaluate harness`: the tasks of lm-evaluation-harness, which an extra installs."""

import argparse
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, make_table

from tttvideo.files import write_json

from .harness_model import Generation, TTTVideoLM


def evaluate_harness(options: argparse.Namespace) -> None:
    """Measure the model, print the table, and write out/results.json."""
    names = [name for name in options.tasks.split(",") if name]
    manager = find_tasks(names, options.include_path)
    tasks = load_tasks(manager, names)
    model = TTTVideoLM(options.checkpoint, options.device, batch_size=options.batch_size)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=options.fewshot,
        limit=options.limit,
        log_samples=False,
    )
    print(make_table(results))
    path = Path(options.out) / "results.json"
    write_json(path, results, indent=2, default=handle_non_serializable)
    print(path)


def find_tasks(names: list[str], folder: str | None) -> TaskManager:
    """The harness's index of tasks, with the library's own only if `folder` lacks some of them.

    Raises ValueError for a name that is no task.
    """
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        print("listing the library's own tasks; this takes half a minute", file=sys.stderr)
        manager = TaskManager(include_path=folder)
    missing = sorted(set(names) - set(manager.all_tasks))
    if missing:
        raise ValueError(
            f"--tasks has {missing[0]!r}, which is no task; `lm-eval ls tasks` lists them"
        )
    return manager


def load_tasks(manager: TaskManager, names: list[str]) -> list[Any]:
    """The groups and tasks of these names, with their data.

    Raises ValueError for a task whose generation_kwargs cannot be followed.
    """
    loaded = manager.load(names)
    for name, task in loaded["tasks"].items():
        if task.OUTPUT_TYPE == "generate_until":
            try:
                Generation.read(task.config.generation_kwargs)
            except ValueError as error:
                raise ValueError(f"task {name}: {error}") from error
    groups = [group for name, group in loaded["groups"].items() if name in names]
    inside = {task.task_name for group in groups for task in group.get_all_tasks()}
    return groups + [task for name, task in loaded["tasks"].items() if name not in inside]
