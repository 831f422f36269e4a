"""`tttvideo evaluate recall`: end to end on a tiny model, its cache, and bad input."""

import json

import pytest
import torch

from tttvideo.apps.commands import invoke
from tttvideo.apps.commands.evaluate_recall import name_checkpoints
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.recall.questions import HOPS, PAIRS
from tttvideo.measures.recall import score_answers
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


def run_command(arguments):
    invoke("evaluate recall", [*map(str, arguments)])


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(vocab_size=258, width=16, depth=1, heads=2, mlp_width=24))
    path = tmp_path / "tiny" / "last.ckpt"
    save_tokens_model(TokenCheckpoint(backbone, "bytes", bos=256, eos=257), path)
    saved = torch.load(path, weights_only=True)
    saved["tttvideo"]["trained"] = {"tokens": 10, "flops": 1e9, "window": 200, "steps": 2}
    torch.save(saved, path)
    return path


FEW = ["--lengths", 60, 300, "--depths", 2, "--samples", 2]


def test_the_command_writes_maps_and_tables_and_reads_its_answers_again(
    checkpoint, tmp_path, capsys
):
    out = tmp_path / "maps"
    run_command([checkpoint, "--out", out, *FEW, "--distractors", 1])
    record = json.loads((out / "recall-tiny.json").read_text())
    cells = {(c["task"], c["length"], c["row"]): c for c in record["cells"]}
    assert len(cells) == 2 * (2 + len(PAIRS) + len(HOPS))
    assert cells["mqar", 60, 8]["exact"] is None and cells["mqar", 60, 8]["answers"] == 0
    assert cells["mqar", 300, 4]["answers"] == 8
    assert all(0 <= c["exact"] <= 1 and c["bits"] > 0 for c in cells.values() if c["answers"])
    table = (out / "recall.md").read_text()
    assert "| depth | by chance | 60 | 300* |" in table and "| 100%  | 50%       |" in table
    assert table in capsys.readouterr().out
    assert (out / "recall-tiny.png").stat().st_size > 10_000

    record["date"] = "long ago"
    (out / "recall-tiny.json").write_text(json.dumps(record))
    run_command([checkpoint, "--out", out, *FEW, "--distractors", 1])
    assert json.loads((out / "recall-tiny.json").read_text()) == record  # was not asked again
    run_command([checkpoint, "--out", out, *FEW, "--distractors", 0])
    assert json.loads((out / "recall-tiny.json").read_text())["date"] != "long ago"
    assert {path.suffix for path in out.iterdir()} == {".json", ".md", ".png"}


def test_a_model_that_diverges_is_wrong_and_named(checkpoint, tmp_path, monkeypatch):
    def broken(backbone, tokens, answers, chunk):
        exact, bits = score_answers(backbone, tokens, answers, chunk)
        far = tokens.shape[1] > 200
        return exact | far, bits.where(torch.tensor(not far), torch.nan)

    monkeypatch.setattr("tttvideo.measures.recall.score_answers", broken)
    run_command([checkpoint, "--out", tmp_path / "maps", *FEW])
    cells = json.loads((tmp_path / "maps" / "recall-tiny.json").read_text())["cells"]
    far = [c for c in cells if c["length"] == 300 and c["answers"]]
    assert far and all(c["bits"] is None and c["exact"] == 0 for c in far)
    assert all(c["bits"] > 0 for c in cells if c["length"] == 128 and c["answers"])
    assert "tiny diverged on texts of 300 tokens" in (tmp_path / "maps" / "recall.md").read_text()


def test_a_haystack_that_is_no_text_is_refused_in_one_line(checkpoint, tmp_path):
    (tmp_path / "hay.bin").write_bytes(b"A sentence. \xff")
    hay = ["--haystack", tmp_path / "hay.bin"]
    with pytest.raises(ValueError, match=r"hay\.bin is no text in UTF-8: byte 12 is") as error:
        run_command([checkpoint, "--out", tmp_path / "maps", *FEW, *hay])
    assert "\n" not in str(error.value)


def test_checkpoints_are_named_by_the_shortest_unique_end_of_their_path():
    assert list(name_checkpoints(["/a/x/last.ckpt", "/b/y/last.ckpt"])) == ["x", "y"]
    assert list(name_checkpoints(["/a/x/last.ckpt", "/b/x/last.ckpt"])) == ["a-x", "b-x"]
    assert list(name_checkpoints(["/a/imported.ckpt"])) == ["imported"]
    with pytest.raises(ValueError, match="give each once"):
        name_checkpoints(["/a/x/last.ckpt", "/a/../a/x/last.ckpt"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", 0], "--samples 0 must be 1 or more"),
        (["--lengths", 0], "--lengths 0 must be 1 token or more"),
        (["--lengths", 40], "no length has room for the task needle"),
    ],
    ids=str,
)
def test_settings_without_questions_are_refused(arguments, message, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_command([checkpoint, "--out", tmp_path / "maps", *arguments])
    assert not (tmp_path / "maps").exists()
