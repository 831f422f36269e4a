"""`tttvideo evaluate harness CKPT --tasks NAMES`: the tasks of lm-evaluation-harness."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tttvideo.files import write_json


def add_parser(kinds: Any) -> argparse.ArgumentParser:
    """The command's parser, among `kinds`, argparse's subparsers."""
    top = kinds.add_parser(
        "harness",
        help="ask the tasks of lm-evaluation-harness",
        description="Measure a text model on tasks of lm-evaluation-harness (extra `eval`). No "
        "context is cut off. The library's own tasks download their data.",
        epilog="example: tttvideo evaluate harness out/books/last.ckpt --tasks lambada_openai,piqa "
        "--out out/harness",
    )
    top.add_argument("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on text")
    top.add_argument("--tasks", required=True, metavar="NAMES", help="names, a comma between them")
    top.add_argument("--include-path", metavar="DIR", help="folder of your own tasks' YAML files")
    top.add_argument("--out", required=True, metavar="DIR", help="folder for results.json")
    top.add_argument(
        "--fewshot",
        type=int,
        metavar="N",
        help="examples before a question (default: as the task)",
    )
    top.add_argument("--limit", type=int, metavar="N", help="questions of each task (default: all)")
    top.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    return top


def run(options: argparse.Namespace) -> None:
    """Ask, print the table, and write out/results.json."""
    try:
        import lm_eval
        from lm_eval.utils import handle_non_serializable, make_table
    except ImportError as error:
        raise ValueError(f"{error}; pip install 'tttvideo[eval]' has what this needs") from error

    from .harness_model import TTTVideoLM

    if options.include_path and not Path(options.include_path).is_dir():
        raise ValueError(f"--include-path {options.include_path} is not a folder")
    for name in ("fewshot", "limit"):
        value = getattr(options, name)
        if value is not None and value < (name == "limit"):
            raise ValueError(f"--{name} {value} must be {int(name == 'limit')} or more")
    names = [name for name in options.tasks.split(",") if name]
    manager = find_tasks(names, options.include_path)
    model = TTTVideoLM(options.checkpoint, options.device)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=names,
        task_manager=manager,
        num_fewshot=options.fewshot,
        limit=options.limit,
        log_samples=False,
    )
    print(make_table(results))
    path = Path(options.out) / "results.json"
    write_json(path, results, indent=2, default=handle_non_serializable)
    print(path)


def find_tasks(names: list[str], folder: str | None) -> Any:
    """The harness's index of tasks, with that of the library only if `folder` has not all of them.

    Raises ValueError for a name that is no task.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        print("the library's own tasks are listed; this takes half a minute", file=sys.stderr)
        manager = TaskManager(include_path=folder)
    missing = sorted(set(names) - set(manager.all_tasks))
    if missing or not names:
        what = repr(missing[0]) if missing else "no name"
        raise ValueError(f"--tasks has {what}, which is no task; `lm-eval ls tasks` lists them")
    return manager
