"""Performance on virtual time: frozen figures, records that are replayed as they were, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.harness.rivals import parse_rivals
from benchmarks.reports.intervals import paired_interval
from benchmarks.sim import speed
from benchmarks.sim.against import ReplayDrafter
from benchmarks.sim.agreements import RecordedAnswer, RecordedPair, read_pair, recorded_names, write_pair
from benchmarks.sim.costs import COSTS
from benchmarks.sim.models import KnownDraft, recorded_name, reference, replayed
from benchmarks.sim.plan import StepCost
from benchmarks.sim.recording import record_answer
from benchmarks.sim.sim_command import cells_of, slower
from benchmarks.sim.speed import Row, measured
from edge_agent.sampling import DraftToken
from edge_agent.testing import FakeDrafter
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Sampling

PAIR = "minus-3-layers"
GOLDEN = Path(__file__).with_name("speed.json")
RIVALS = parse_rivals(["pipesd:thin", "vanilla:thin", "adaptive"])


# -- figures ------------------------------------------------------------------------------


def figures() -> dict[str, list[float]]:
    """TPT and TTFT in ms, passes, verified drafts and bytes up a token, by scenario and rival."""
    cells = cells_of(["scenario-1", "fast-edge"], ["gpu-15"], PAIR, categories=["code"], num_prompts=1)
    cells += cells_of(["fast-edge"], ["h100-8b"], PAIR, [8], categories=["chat"], num_prompts=4)
    cells += cells_of(["far"], ["cpu"], PAIR, categories=["maths"], num_prompts=1, temperature=0.8)
    found = {}
    for cell in cells:
        for row in measured(cell, RIVALS, lambda: None):
            per_token = row.target_passes_per_token, row.drafted_per_token, row.bytes_up_per_token
            found[f"{row.scenario} {row.label}"] = [row.tpt_ms, row.ttft_ms, *per_token]
            found[f"{row.scenario} streaming"] = [row.streaming_tpt_ms]
    return found


def test_the_figures_are_those_that_were_frozen() -> None:
    """Whoever changes one says why, and renews the file: `python -m tests.simulation.test_speed`."""
    frozen, found = json.loads(GOLDEN.read_text()), figures()
    assert found.keys() == frozen.keys()
    assert {
        name: values for name, values in found.items() if values != pytest.approx(frozen[name], rel=1e-3)
    } == {}


def test_streaming_takes_what_the_costs_say() -> None:
    """A step a token, by the fitted H100's formula with the context that is there, and one round trip."""
    (cell,) = cells_of(["fast-edge"], ["h100-8b"], PAIR, categories=["code"], num_prompts=1)
    (streaming,) = speed.answers_of(cell, speed.STREAMING)
    step, (answer,) = cell.costs.step, cell.answers
    num, before = len(answer.tokens), len(answer.prompt)
    contexts = range(before + 1, before + num)
    decode_s = sum(step.base_s + step.context_s * context for context in contexts)
    prefill_s = step.base_s + step.token_s * (before - 1) + step.context_s * before
    expected_s = 0.030 + prefill_s + decode_s
    assert streaming.total_s == pytest.approx(expected_s, rel=0.01)
    assert streaming.target_passes == num
    assert COSTS["h100-8b"].step.base_s == pytest.approx(1.207e-3 + 5.886e-3 + 2.101e-5)


# -- records ------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", recorded_names())
def test_a_record_is_replayed_as_it_was(pair: str) -> None:
    """The target's text, and a draft that is right and wrong where the real one was, as sure as it was."""
    for real, answer in zip(read_pair(pair).answers, replayed(pair), strict=True):
        sampling = Sampling(len(answer.tokens), ignore_eos=True)
        assert reference(recorded_name(pair), answer.prompt, sampling) == list(answer.tokens)
        draft, text = KnownDraft(recorded_name(pair), 0, 0.5), [*answer.prompt]
        for number, token in enumerate(answer.tokens):
            said = draft.token(0, text)
            assert (said.token_id == token) == (real.picks[number].token_id == real.tokens[number])
            assert said.probability == real.picks[number].probability
            aside = [*text, said.token_id]
            for following in real.detours.get(number, ()):
                after = draft.token(1, aside)
                assert after.probability == following.probability
                aside.append(after.token_id)
            text.append(token)


def test_what_repeats_itself_still_does() -> None:
    """Ids that are alike in a record are alike in the replay, so that a lookup finds what it would find."""
    for real, answer in zip(read_pair(PAIR).answers, replayed(PAIR), strict=True):
        words = dict(zip(real.tokens, answer.tokens, strict=True))
        assert [words[token] for token in real.tokens] == list(answer.tokens)
        assert len(set(words.values())) == len(words)


def test_prompts_are_told_apart() -> None:
    """Also one prompt's answers at two temperatures."""
    prompts = [answer.prompt for answer in replayed(PAIR)]
    assert len(set(prompts)) == len(prompts)
    assert len({tuple(answer.prompt) for answer in read_pair(PAIR).answers}) < len(prompts)


def counting(tokens: Sequence[int]) -> DraftToken:
    return DraftToken((tokens[-1] + 1) % 10, 0.9)


def counting_badly(tokens: Sequence[int]) -> DraftToken:
    """Wrong after every 4."""
    return DraftToken(0, 0.2) if tokens[-1] == 4 else counting(tokens)


def test_recorded_and_replayed(tmp_path: Path) -> None:
    """The draft is asked at each position of the target's text, and goes on after a wrong pick."""

    def logits(tokens: Sequence[int]) -> object:
        import numpy as np

        said = counting_badly(tokens)
        made = np.full(10, -5.0, dtype=np.float32)
        made[said.token_id], made[(said.token_id + 5) % 10] = 5.0, 1.0
        return made

    vocabulary = [str(i) for i in range(10)]
    tokens = [(1 + i) % 10 for i in range(20)]
    asked = RecordedAnswer(
        name="a", category="code", prompt=[0], tokens=tokens, picks=[], others=[], detours={}
    )
    answer = record_answer(FakeDrafter(logits, vocabulary), asked)  # type: ignore[arg-type]
    assert [i for i, pick in enumerate(answer.picks) if pick.token_id != tokens[i]] == [4, 14]
    assert [said.token_id for said in answer.detours[4]] == [1, 2, 3, 4, 0, 1, 2, 3]
    assert answer.others[0][0] == 6
    assert answer.agreement == 0.9
    write_pair(tmp_path / "a.json", RecordedPair(target="t", draft="d", answers=[answer]))
    assert read_pair(str(tmp_path / "a.json")).answers == [answer]
    drafter = ReplayDrafter([answer], FakeDrafter(counting, vocabulary).fingerprint, 0.0)
    sequence = drafter.open([0])
    said = [drafter.draft([sequence])[sequence].token_id for _ in range(13)]
    assert said == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert drafter.fingerprint(10) == FakeDrafter(counting, vocabulary).fingerprint(10)


def test_no_record() -> None:
    """It says which there are."""
    with pytest.raises(CliError, match=PAIR):
        read_pair("nothing")


# -- the command --------------------------------------------------------------------------

KEYS = [
    *("scenario", "category", "policy", "mode", "is_default", "sources", "constructed"),
    *(
        "tpt_ms",
        "streaming_tpt_ms",
        "speedup",
        "speedup_low",
        "speedup_high",
        "target_passes_per_token",
        "drafted_per_token",
        "bytes_up_per_token",
    ),
    *("ttft_ms", "p95_tpt_ms"),
]
SMALL = ["--scenarios", "fast-edge", "--costs", "gpu-30,cpu", "--categories", "code", "--prompts", "2"]


def test_rows_and_picture(tmp_path: Path) -> None:
    """A row a rival with its interval, plain streaming beside itself among them, and a picture."""
    files = tmp_path / "rows.json", tmp_path / "speedup.png"
    arguments = [*SMALL, "--policies", "cloud,adaptive", "--json", str(files[0]), "--picture", str(files[1])]
    done = CliRunner().invoke(app, ["sim", *arguments])
    assert done.exit_code == 0, done.output
    rows = json.loads(files[0].read_text())
    assert [list(row) for row in rows] == [KEYS] * 14
    for row in rows:
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert row["speedup"] == pytest.approx(row["streaming_tpt_ms"] / row["tpt_ms"], rel=1e-3)
    assert [row["speedup"] for row in rows if row["policy"] == "cloud"] == [1.0, 1.0]
    assert [row["mode"] for row in rows if row["is_default"]] == ["auto", "auto"]
    assert [row["sources"] for row in rows if row["mode"] == "auto"] == ["both", "model", "lookup"] * 2
    assert "auto by source of drafts" in done.output
    assert re.search(r"auto \(default\): slower than streaming in . of 2 cells", done.output)
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C prints what is there."""
    real = speed.measured
    num_cells = 0

    def interrupted(*arguments: object) -> Iterator[Row]:
        nonlocal num_cells
        num_cells += 1
        if num_cells == 2:
            raise KeyboardInterrupt
        yield from real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(speed, "measured", interrupted)
    done = CliRunner().invoke(app, ["sim", *SMALL, "--policies", "adaptive:latency"])
    assert done.exit_code == 0
    assert "fast-edge gpu-30" in done.output
    assert "fast-edge cpu" not in done.output
    assert "in 0 of 1 cells" in done.output or "in 1 of 1 cells" in done.output


@pytest.mark.parametrize("arguments", [["--costs", "abacus"], ["--pair", "x"], ["--categories", "poems"]])
def test_misuse(arguments: list[str]) -> None:
    """What there is not is told."""
    done = CliRunner().invoke(app, ["sim", *arguments])
    assert isinstance(done.exception, CliError)


def test_slower_counts_cells() -> None:
    """Of each mode of ours, a thousandth below streaming is none."""
    row = dict.fromkeys(KEYS, 0.0) | {"category": "code", "policy": "adaptive", "is_default": False}
    row |= {"sources": "both", "constructed": False}
    rows = [
        msgspec.convert(row | {"scenario": str(i), "mode": mode, "speedup": value}, Row)
        for i, (mode, value) in enumerate([("latency", 0.999), ("offload", 0.9), ("offload", 1.2)])
    ]
    assert slower(rows).splitlines() == [
        "latency: slower than streaming in 0 of 1 cells",
        "offload: slower than streaming in 1 of 2 cells",
    ]


def test_prompts_are_paired() -> None:
    """Prompts that differ tenfold say nothing against a factor that is the same for all."""
    low, high = paired_interval([1.0, 10.0, 3.0], [2.0, 20.0, 6.0])
    assert (low, high) == pytest.approx((0.5, 0.5))
    low, high = paired_interval([1.0, 10.0, 3.0], [2.0, 5.0, 6.0])
    assert low < 14.0 / 13.0 < high


def test_measured_steps() -> None:
    """What was measured, linear in between, and beyond as between the last two."""
    step = StepCost(measured=((1, 0.030), (7, 0.036), (9, 0.080), (17, 0.120)))
    seconds = [step.seconds(tokens, 0) for tokens in (1, 4, 7, 8, 9, 13, 25)]
    assert seconds == pytest.approx([0.030, 0.033, 0.036, 0.058, 0.080, 0.100, 0.160])
    assert StepCost(base_s=0.01, token_s=0.001, context_s=1e-6).seconds(5, 1000) == pytest.approx(0.015)


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in figures().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
