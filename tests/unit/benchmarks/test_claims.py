"""Documents say what the raw data say; a figure that does not is found and named."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from benchmarks.claims.claims import ROOT, check, covered, read_claims
from benchmarks.claims.documents import find_sentence, find_table, table_text, with_figures
from benchmarks.claims.values import ClaimError, Record, Value
from benchmarks.cli import app

FIGURE = re.compile(r"\d[\d,.]*\s*(?:x\b|%|ms\b|passes)|\d[\d,.]*\s+times")
MEASURED = {"README.md": ("# PipeSD", "Apache-2.0."), "docs/benchmarks.md": ("## Results", "## The testbed")}
"""Documents with the marks between which every figure is a claim."""


def claims(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["claims", *arguments])


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The documents, to be spoilt."""
    for name in read_claims().files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def with_another_digit(text: str, before: int) -> str:
    """`text` with its last digit before a place changed."""
    last = max(found.start() for found in re.finditer(r"\d", text[:before]))
    return f"{text[:last]}{(int(text[last]) + 1) % 10}{text[last + 1 :]}"


# -- the documents ------------------------------------------------------------------------


def test_the_documents_say_what_the_data_say() -> None:
    """Whoever renews data runs `pipesd bench claims --write`."""
    done = claims("--check")
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"\d+ claims .*: 0 differ from the data", done.output.splitlines()[-1])


@pytest.mark.parametrize("document", MEASURED)
def test_every_measured_figure_is_in_a_claim(document: str) -> None:
    """A figure that nothing recomputes is one that will be wrong."""
    text = (ROOT / document).read_text(encoding="utf-8")
    spans = covered(read_claims(), document, text)
    first, last = (text.index(mark) for mark in MEASURED[document])
    loose = [
        text[max(0, found.start() - 40) : found.end()]
        for found in FIGURE.finditer(text, first, last)
        if not any(start <= found.start() and found.end() <= end for start, end in spans)
    ]
    assert loose == []


@pytest.mark.parametrize("name", sorted(read_claims().claim))
def test_a_corrupted_sentence_is_named(copies: Path, name: str) -> None:
    """Each of them; the true figures come back."""
    known = read_claims()
    claim = known.claim[name]
    file = copies / claim.file
    text = file.read_text(encoding="utf-8")
    found = find_sentence(text, claim.sentence)
    assert found is not None
    (start, end), now = found
    wrong = with_figures(now, claim.sentence, dict.fromkeys(claim.values, "77.7"))
    file.write_text(text[:start] + wrong + text[end:], encoding="utf-8")
    report = check(msgspec.structs.replace(known, claim={name: claim}, table={}), copies)
    assert [line.split(":")[0] for line in report.differing] == [name]
    assert report.texts[claim.file] == text


@pytest.mark.parametrize("name", sorted(read_claims().table))
def test_a_corrupted_table_is_named(copies: Path, name: str) -> None:
    """One digit is enough."""
    known = read_claims()
    table = known.table[name]
    file = copies / table.file
    text = file.read_text(encoding="utf-8")
    place = find_table(text, name)
    assert place is not None
    file.write_text(with_another_digit(text, place[1]), encoding="utf-8")
    report = check(msgspec.structs.replace(known, claim={}, table={name: table}), copies)
    assert [line.split(":")[0] for line in report.differing] == [name]
    assert report.texts[table.file] == text


def test_a_corrupted_figure_fails_the_command(copies: Path) -> None:
    """Exit code 1 and the claim's name; `--write` mends it."""
    file = copies / "README.md"
    text = file.read_text(encoding="utf-8")
    place = find_table(text, "readme-when")
    assert place is not None
    file.write_text(with_another_digit(text, place[1]), encoding="utf-8")
    done = claims("--check", "--root", str(copies))
    assert done.exit_code == 1
    assert done.output.startswith("readme-when: README.md")
    assert done.output.splitlines()[-1].endswith("1 differ from the data")
    assert claims("--write", "--root", str(copies)).exit_code == 0
    assert file.read_text(encoding="utf-8") == text


def test_a_missing_sentence_is_named(copies: Path) -> None:
    """It cannot be written: somebody has to say where it belongs."""
    (copies / "README.md").write_text("# PipeSD\n", encoding="utf-8")
    done = claims("--write", "--root", str(copies))
    assert done.exit_code == 1
    assert "README.md has no such sentence" in done.output
    assert "README.md has no place for this table" in done.output


def test_missing_data_are_told(tmp_path: Path) -> None:
    """In a sentence."""
    with pytest.raises(ClaimError, match="cannot read"):
        check(read_claims(), folder=tmp_path)


# -- figures ------------------------------------------------------------------------------

RECORDS: Sequence[Record] = [
    {"case": 1, "who": "ours", "place": "a", "ms": 10.0, "plain": 20.0, "mode": None},
    {"case": 2, "who": "ours", "place": "a", "ms": 30.0, "plain": 20.0, "mode": None},
    {"case": 3, "who": "ours", "place": "b", "ms": 10.0, "plain": 5.0, "mode": None},
    {"case": 1, "who": "theirs", "place": "a", "ms": 40.0, "plain": 20.0, "mode": "slow"},
    {"case": 2, "who": "theirs", "place": "a", "ms": 40.0, "plain": 20.0, "mode": "slow"},
]


@pytest.mark.parametrize(
    ("value", "figure"),
    [
        (Value(where={"place": "a", "who": "ours"}, of="plain", per="ms"), "1.00"),
        (Value(where={"who": "ours"}, of="ms", take="max", format=".0f"), "30"),
        (Value(where={"who": "ours"}, of="ms", take="median", format=".0f"), "10"),
        (Value(where={"mode": "none"}, take="count", format=".0f"), "3"),
        (Value(where={"who": ["ours", "theirs"]}, by=["place"], take="count", format=".0f"), "2"),
        (Value(where={"who": "ours"}, of="plain", per="ms", by=["place"], take="min"), "0.50"),
        (Value(where={"who": "ours"}, of="plain", per="ms", by=["place"], below=0.9, take="count"), "1.00"),
        (Value(where={"who": "ours"}, of="plain", per="ms", by=["place"], above=2, take="count"), "0.00"),
        (Value(where={"who": "theirs"}, of="plain", per="ms", scale=100, format=".0f"), "50"),
        (
            Value(where={"who": "ours", "place": "a"}, of="ms", per="ms", against={"who": "theirs"}),
            "2.00",
        ),
    ],
)
def test_values(value: Value, figure: str) -> None:
    """Sums are divided, not means of ratios."""
    assert value.computed(RECORDS, ["case"]) == figure


def test_intervals_hold_the_figure() -> None:
    """Both ends are of the same resampling."""
    where = {"place": "a", "who": "ours"}
    low, high = (
        float(Value(where=where, of="plain", per="ms", take=take).computed(RECORDS))  # type: ignore[arg-type]
        for take in ("low", "high")
    )
    assert low < 1.0 < high


@pytest.mark.parametrize(
    "value",
    [
        Value(where={"who": "nobody"}, of="ms"),
        Value(where={"colour": "red"}, of="ms"),
        Value(where={"who": "ours"}, of="weight"),
        Value(where={"who": "ours"}, of="ms", by=["place"]),
        Value(where={"who": "ours"}, of="ms", take="min", above=1e6),
    ],
)
def test_what_cannot_be_computed(value: Value) -> None:
    """Nothing is made up."""
    with pytest.raises(ClaimError):
        value.computed(RECORDS)


# -- text ---------------------------------------------------------------------------------


def test_a_sentence_keeps_its_line_breaks() -> None:
    """A template says nothing of lines."""
    text = "One. It takes 5\nms, at most 7 ms. Two."
    template = "It takes {a} ms, at most {b} ms."
    found = find_sentence(text, template)
    assert found is not None
    assert with_figures(found[1], template, {"a": "6.0", "b": "8"}) == "It takes 6.0\nms, at most 8 ms."
    assert find_sentence("It takes long.", template) is None


def test_tables() -> None:
    """What is written is what is found."""
    made = table_text(["a", "b"], [["1", "2"]])
    text = f"x\n<!-- table: t -->\n{made}<!-- end: t -->\n"
    place = find_table(text, "t")
    assert place is not None
    assert text[place[0] : place[1]] == made == "\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
    assert find_table(text, "u") is None
