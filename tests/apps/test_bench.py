"""`tttvideo bench`: benchmarks on tiny sizes, gates, bars, and the functions of peers."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tttvideo.apps.bench import bars, contenders, peers, program, records, runs
from tttvideo.apps.bench.cases import Case, decode_bytes, draw_inputs, least_work
from tttvideo.apps.cli import main
from tttvideo.kernels import State, autograd_loop
from tttvideo.measures.errors import errors, results, verdict
from tttvideo.measures.speed import BACKWARD, BOTH, FORWARD, peak_bytes


TINY = ["--device", "cpu", "--heads", "2", "--head-dim", "8", "--repeats", "3", "--batch", "1"]
CASE = Case("linear", 2, 64, 2, 16)


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch):
    """They take a second, and numbers mean nothing here."""
    found = {"bytes_per_second": 1e10, "flop_per_second": 1e11}
    monkeypatch.setattr("tttvideo.apps.bench.program.ceilings", lambda *_: found)


def bench(out, *arguments):
    main(["bench", *arguments, "--out", str(out)])
    return json.loads(next(Path(out).glob("*.json")).read_text())


def values(record, **wanted):
    """By contender and context."""
    rows = [r for r in record["rows"] if all(r[name] == x for name, x in wanted.items())]
    return {(row["who"], row["case"]["tokens"]): row["values"] for row in rows}


@pytest.mark.parametrize("what", ["kernels", "decode", "layers", "memory"])
def test_a_benchmark_writes_numbers_table_and_picture(what, tmp_path, capsys):
    record = bench(tmp_path, what, *TINY, "--tokens", "16", "32")
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{what}.{e}" for e in ("json", "md", "png")
    }
    for name in ("device", "threads", "date", "commit", "torch", "command", "clock"):
        assert record[name], name
    for row in record["rows"]:
        assert len(row["values"]) == (3 if row["unit"] == "s" else 1) and not row["wrong"]
        assert row["unit"] != "s" or row["error"] < 1e-4
    assert {row["case"]["inner"] for row in record["rows"]} == {"linear", "mlp"}
    assert (tmp_path / f"{what}.md").read_text() in capsys.readouterr().out


def test_without_a_gpu_the_report_names_missing_contenders_and_reasons(tmp_path):
    record = bench(tmp_path, "kernels", *TINY, "--tokens", "32", "--inner", "linear")
    left_out = "\n".join(record["left_out"])
    for name in ("triton", "compiled loop", "fla fused", "fla chunk", "Mamba-2 scan"):
        assert f"{name}: " in left_out
    assert set(values(record, what=BOTH)) == {
        (who, 32) for who in ("dual", "reference", "plain loop", "attention")
    }


@pytest.mark.parametrize("what, batch", [("kernels", 16), ("decode", 512)])
def test_options_override_the_presets_of_the_papers_figures(what, batch, tmp_path):
    arguments = [what, "--preset", "paper", *TINY[:-2], "--tokens", "16", "--skip", "reference"]
    record = bench(tmp_path, *arguments, "--inner", "linear")
    assert {row["case"]["batch"] for row in record["rows"]} == {batch}
    assert (tmp_path / f"{what}-paper.png").is_file()


def test_longer_contexts_are_left_out_beyond_the_time_limit(tmp_path):
    arguments = ["--tokens", "16", "32", "--inner", "linear", "--limit", "0"]
    record = bench(tmp_path, "decode", *TINY, *arguments)
    assert {tokens for _, tokens in values(record)} == {16}
    assert any("--limit" in reason for reason in record["left_out"])


def test_the_size_of_a_decoders_state_does_not_depend_on_the_context(tmp_path):
    found = values(
        bench(tmp_path, "memory", *TINY, "--tokens", "16", "32"), what="carried by one layer"
    )
    assert found["TTT state", 16] == found["TTT state", 32]
    assert found["KV cache", 32][0] == 2 * found["KV cache", 16][0]


def test_a_gate_that_fails_voids_the_bar_and_the_exit_status(tmp_path, monkeypatch, small_bars):
    def spoil(name):
        right = getattr(contenders, name)

        def wrong(inputs, backend):
            run = right(inputs, backend)
            return run._replace(call=lambda: 1.01 * run.call())

        monkeypatch.setattr(contenders, name, wrong)

    spoil("own_run")
    spoil("decode_run")
    with pytest.raises(SystemExit, match="a gate failed"):
        bench(tmp_path, "bars", "--device", "cpu", "--repeats", "3")
    record = json.loads((tmp_path / "bars.json").read_text())
    assert all(bar["verdict"].startswith("void") for bar in record["bars"] if "dual" in bar["what"])


def test_an_error_of_one_contender_is_reported_and_stops_no_other(tmp_path, monkeypatch):
    def broken(inputs):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(peers, "attention_run", broken)
    with pytest.raises(SystemExit, match="attention: .* RuntimeError: no kernel image"):
        bench(tmp_path, "kernels", *TINY, "--tokens", "32", "--inner", "linear")
    record = json.loads((tmp_path / "kernels.json").read_text())
    assert {row["who"] for row in record["rows"]} == {"dual", "reference", "plain loop"}


@pytest.fixture
def small_bars(monkeypatch):
    short, long = replace(CASE, tokens=32), replace(CASE, tokens=64)
    plan = [replace(v, case=replace(short, inner=v.case.inner)) for v in bars.CPU]
    plan += [
        bars.Versus(replace(long, inner=i), BOTH, "plain loop", 1, 1) for i in ("linear", "mlp")
    ]
    for name, value in (("CPU", plan), ("CPU_A", short), ("CPU_E", long)):
        monkeypatch.setattr(bars, name, value)


def test_all_bars_of_a_cpu_are_measured(tmp_path, small_bars):
    record = bench(tmp_path, "bars", "--device", "cpu", "--repeats", "3")
    assert len(record["bars"]) == len(bars.CPU) + 5
    for bar in record["bars"]:
        assert bar["reached"] > 0 and bar["verdict"] in ("aim reached", "reached", "MISSED")
    assert "peak memory" in (tmp_path / "bars.md").read_text()


def test_a_bar_may_be_a_lower_or_an_upper_bound():
    at_least = records.Bar("x", "", must=1, aim=2, reached=1.5)
    at_most = records.Bar("x", "", must=4, aim=3, reached=3.5, most=True)
    assert at_least.verdict == at_most.verdict == "reached"
    assert replace(at_least, reached=0.9).verdict == replace(at_most, reached=5).verdict == "MISSED"
    assert (
        replace(at_least, reached=2).verdict == replace(at_most, reached=3).verdict == "aim reached"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["kernels", "--tokens", "30"], "--tokens 30 must be a multiple of --mini-batch 16"),
        (["layers", "--preset", "paper"], "--preset paper is for kernels and decode only"),
        (["kernels", "--batch", "0"], "--batch 0 must be 1 or more"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["bench", *arguments])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_cuda_device_is_refused_in_one_line():
    with pytest.raises(SystemExit, match="there is no CUDA device; use --device cpu"):
        main(["bench", "bars", "--device", "cuda"])


def test_the_scan_of_mamba_2_is_a_decaying_sum():
    inputs = draw_inputs(replace(CASE, tokens=16)).double()
    state, ys = 0, []
    with torch.no_grad():
        for t in range(16):
            q, k, v, eta = (
                x[:, t, :, :, None] for x in (*inputs.tokens[:3], inputs.eta[..., None])
            )
            state = (-eta).exp() * state + eta * v @ k.mT
            ys.append((state @ q)[..., 0])
        torch.testing.assert_close(peers.mamba_truth(inputs).call(), torch.stack(ys, dim=1))


def test_the_form_of_fla_adds_z_in_place_of_q():
    inputs = draw_inputs(CASE, same_eta=True).double()
    normed = peers.plain_run(inputs).call() - inputs.q
    z = peers.fla_truth(inputs).call() - normed
    again = (
        torch.nn.functional.layer_norm(z, z.shape[-1:], eps=1e-6) * inputs.norm_weight
        + inputs.norm_bias
    )
    torch.testing.assert_close(again, normed)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
def test_rounded_products_have_errors_of_bfloat16(inner):
    inputs = draw_inputs(replace(CASE, inner=inner, dtype="bfloat16"))
    truth = results(peers.plain_run(inputs.double()))
    rounded, exact = (errors(run(inputs), truth) for run in (peers.rounded_run, peers.plain_run))
    for name in ("q", "k", "v", "weights[0]"):
        assert 1e-4 < rounded[f"d{name}"] < 3e-2
        assert rounded[f"d{name}"] > exact[f"d{name}"]


def test_decoding_and_whole_sequences_have_separate_gates(monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "check_gate", lambda one, case: asked.append(one.name) or (0.0, ""))
    bench = runs.Bench(records.Report("", "", "cpu", "", {}), 3, 1, 1, (), lambda _: None)
    own = contenders.kernel_contenders(CASE)[0], contenders.decode_contenders(CASE)[0]
    for what, one in zip((FORWARD, "decode", BOTH), (own[0], own[1], own[0]), strict=True):
        bench.check(one, CASE, what)
    assert asked == ["triton", "triton"]


@pytest.mark.parametrize("problem", [torch.OutOfMemoryError(), RuntimeError("no kernel image")])
def test_a_failed_cell_does_not_affect_others(problem, tmp_path, monkeypatch, small_bars):
    def broken(*_):
        raise problem

    monkeypatch.setattr(bars, "run_cell", broken)
    stops = not isinstance(problem, torch.OutOfMemoryError)
    with pytest.raises(SystemExit, match="no kernel image") if stops else nullcontext():
        bench(tmp_path, "bars", "--device", "cpu", "--repeats", "3")
    record = json.loads((tmp_path / "bars.json").read_text())
    assert "TTT-MLP decode at" in "\n".join(record["broken" if stops else "left_out"])
    verdicts = [bar["verdict"] for bar in record["bars"]]
    assert sum(v.startswith("not measured: dual and") for v in verdicts) == len(bars.CPU)
    assert len(verdicts) == len(bars.CPU) + 5


def test_measurements_are_kept_when_a_later_part_raises(tmp_path, monkeypatch):
    def broken(*arguments):
        measure_times(*arguments)
        raise RuntimeError("a mistake in the program")

    measure_times = program.measure_times
    monkeypatch.setattr(program, "measure_times", broken)
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        bench(tmp_path, "kernels", *TINY, "--tokens", "16", "--inner", "linear")
    assert json.loads((tmp_path / "kernels.json").read_text())["rows"]


def test_the_kernel_of_attention_has_a_name():
    found = peers.attention_backends(torch.zeros(1, 1, 1, 64))
    assert all("A" <= letter <= "Z" for letter in found.split(",")[0].replace("_", ""))


def test_errors_of_a_kernel_are_at_most_half_above_pytorchs():
    found, rounded = (
        {"dnorm_weight": 9e-3},
        {"dnorm_weight": 4e-3},
    )  # a sum over all tokens: three times as much
    assert verdict(found, (5e-3, 1e-2), rounded) == ""
    assert "dnorm_weight is off" in verdict({"dnorm_weight": 1.3e-2}, (5e-3, 1e-2), rounded)
    assert verdict({"y": 2e-3, "dq": 9e-3}, (5e-3, 1e-2)) == ""
    assert "dq is off" in verdict({"y": 2e-3, "dq": 9e-3}, (5e-3, 1e-2), {"y": 2e-3, "dq": 5e-3})
    assert "y is off" in verdict({"y": float("nan")}, (5e-3, 1e-2))


def test_the_count_of_work_follows_the_kernels():
    """The figures for head dim 64, mini-batch 16 and bfloat16, of one token and head."""
    case = Case(tokens=1, heads=1, dtype="bfloat16")
    mlp = replace(case, inner="mlp")
    assert least_work(case, FORWARD) == (28672, 516)
    assert least_work(case, BACKWARD) == (86016, 1032)
    assert least_work(case, BOTH)[1] == 516 + 128 + 1032
    assert (least_work(mlp, FORWARD)[0], least_work(mlp, BACKWARD)[0]) == (249856, 749568)
    assert decode_bytes(case) == 2 * (4096 + 8.5 * 128 + 256) + 10 * 256
    exact = replace(case, dtype="float32")
    assert decode_bytes(exact) == 4 * (4096 + 8.5 * 128 + 256) + 4 * 256


def test_peak_memory_counts_tensors_held_at_once():
    x = torch.ones(1000)

    def run():
        y = x + 1  # 4,000 bytes
        y = y * 2  # and 4,000 more, before the first are given up
        return y + 1

    assert 8000 <= peak_bytes(run, "cpu") < 8100  # some bytes for the 1 and the 2


@pytest.mark.parametrize("inner", ["linear", "mlp"])
def test_the_dense_decoder_equals_the_dual_form(inner):
    inputs = draw_inputs(replace(CASE, inner=inner)).double()
    with torch.no_grad():
        dense = peers.dense_decode_run(inputs).call()
        operands = *inputs.tokens, inputs.token_scale, *inputs.norm
        y, _ = autograd_loop.whole(*operands, State(inputs.weights))
    torch.testing.assert_close(dense, y)


@pytest.mark.parametrize("who", [1, 2, 3])
def test_decoders_accept_bfloat16(who):
    case = replace(CASE, dtype="bfloat16")
    with torch.no_grad():
        error, wrong = runs.check_gate(contenders.decode_contenders(case)[who], case)
    assert 0 < error < 1e-2 and not wrong
