"""Code cites docs/semantics.md by number; every number must stand there, and its tables must be those of the code."""

import re
import tokenize
from pathlib import Path

import pytest

from sttm_export.contracts.merge import NOTHING_MERGES
from sttm_export.families.registry import load_model, model_names
from sttm_export.merging.budget import ALIKE, SLACK
from sttm_export.merging.channels import INVALID
from sttm_export.merging.ladder import least_gap
from sttm_export.merging.temporal import search_rounds, unrolled_rounds

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
SECTIONS = set(re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE))
RULES = set(re.findall(r"^### Rule (\d+\.\d+): ", TEXT, re.MULTILINE))
CODE = sorted((ROOT / "sttm_export").rglob("*.py"))

# "section 3", "sections 1, 2 and 7", "sections 1 to 4"; what follows "arXiv" numbers the paper's sections.
SECTION = re.compile(r"(?<![\w.-])sections? ((?:\d+(?:\.\d+)?)(?:(?:, | and | to )\d+(?:\.\d+)?)*)", re.IGNORECASE)
RULE = re.compile(r"\brules? (\d+\.\d+)", re.IGNORECASE)
PAPER = re.compile(r"arXiv[^;)]*?sections? [\d.]+(?:[^;)]*?; [^;]*?section [\d.]+)?")


def prose(path):
    """Comments and strings of a Python file: where citations stand."""
    with tokenize.open(path) as file:
        kinds = (tokenize.COMMENT, tokenize.STRING)
        return "\n".join(token.string for token in tokenize.generate_tokens(file.readline) if token.type in kinds)


def citations(text):
    """(sections, rules) that a text cites of docs/semantics.md."""
    text = PAPER.sub("", " ".join(text.replace("#", " ").split()))
    sections = set()
    for match in SECTION.finditer(text):
        numbers = re.findall(r"\d+(?:\.\d+)?", match[1])
        sections |= set(map(str, range(int(numbers[0]), int(numbers[1]) + 1))) if " to " in match[1] else set(numbers)
    return sections, set(RULE.findall(text))


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_number_that_is_cited_stands_in_the_document(path):
    sections, rules = citations(prose(path))
    assert sections <= SECTIONS
    assert rules <= RULES


def test_citations_are_found():
    """The test above would pass on any code if the patterns matched nothing."""
    found = [citations(prose(path)) for path in CODE]
    assert {"1.1", "1.2", "2.3", "3.4", "3.5", "8.2", "8.3", "8.4"} <= set().union(*(rules for _, rules in found))
    assert {"1", "2", "3", "4", "6", "7", "8"} <= set().union(*(sections for sections, _ in found))
    assert citations("(sections 1, 2\n  # and 7), rule 9.9") == ({"1", "2", "7"}, {"9.9"})
    assert citations("Sections 1 to 3; arXiv 2507.07990, section 3.2; directed merging: section 3.3.") == (
        {"1", "2", "3"},
        set(),
    )


def test_every_document_that_is_cited_exists():
    files = [*CODE, *(ROOT / "models").glob("*.toml"), *(ROOT / "sttm_export").rglob("*.toml")]
    cited = {name for path in files for name in re.findall(r"docs/[\w-]+\.md", path.read_text(encoding="utf-8"))}
    assert cited
    assert not [name for name in cited if not (ROOT / name).is_file()]


def test_sections_and_rules_are_in_order():
    headings = re.findall(r"^##\#? (?:Rule )?(\d+)(?:\.(\d+))?[.:] ", TEXT, re.MULTILINE)
    numbers = [(int(section), int(rule or 0)) for section, rule in headings]
    assert numbers == sorted(set(numbers))
    assert [section for section, rule in numbers if rule == 0] == list(range(1, len(SECTIONS) + 1))


def test_the_document_cites_only_itself_where_it_gives_numbers():
    body = re.sub(r"^#.*$", "", TEXT, flags=re.MULTILINE)
    sections, rules = citations(body)
    assert sections <= SECTIONS
    assert rules <= RULES


def published():
    """{(model title, budget): {(spatial, temporal), …}} of the table in section 6."""
    rows, model = {}, ""
    for line in TEXT.split("\n## 6. ")[1].split("\n## 7. ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not re.match(r"[\d.]+, [\d.]+$", cells[2]):
            continue
        model = cells[0].split(",")[0] or model
        for budget, cell in ((0.5, cells[2]), (0.3, cells[3])):
            rows.setdefault((model, budget), set()).add(tuple(map(float, cell.split(", "))))
    return rows


@pytest.mark.parametrize("name", model_names())
def test_published_thresholds_of_the_models_are_those_of_the_table(name):
    model, table = load_model(name), published()
    for row in model.merging.thresholds:
        assert (row.spatial, row.temporal) in table[model.title.split(" (")[0], row.budget]


def test_the_table_has_every_row():
    assert sorted({model for model, _ in published()}) == [
        "LLaVA-OneVision-7B",
        "LLaVA-Video-72B",
        "LLaVA-Video-7B",
        "Qwen2-VL-7B",
    ]
    section = TEXT.split("\n## 6. ")[1].split("\n## 7. ")[0]
    assert len(re.findall(r"\| [\d.]+, [\d.]+ \| [\d.]+, [\d.]+ \|", section)) == 16


def test_constants_are_those_of_the_code():
    assert NOTHING_MERGES == 2.0
    assert "such as 2.0, may be given and means that **nothing merges**" in TEXT
    assert INVALID == -2.0
    assert "counts as -2," in TEXT
    assert [search_rounds(frames) for frames in (1, 2, 32, 33)] == [0, 2, 6, 7]
    assert "with ceil(log2 T) + 1 rounds" in TEXT
    assert [unrolled_rounds(frames) for frames in (8, 16, 32, 128)] == [18, 21, 24, 30]
    assert "**3·(ceil(log2 T) + 3) rounds**: 18, 21, 24 and 30 for T = 8, 16, 32 and 128" in TEXT
    assert [f"{least_gap(channels):.1e}" for channels in (3584, 16)] == ["5.5e-06", "2.1e-06"]
    assert (SLACK, ALIKE) == (1 / 16, 0.005)


def test_prose_takes_comments_and_docstrings_only(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('"""Rule 1.1."""\nsection_3 = 3  # rule 2.3\n', encoding="utf-8")
    assert citations(prose(file)) == (set(), {"1.1", "2.3"})
