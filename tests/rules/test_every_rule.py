"""The whole shelf of rules: each has its page and an exhibit that breaks it, and none speaks of good models."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from rules_museum import museum_script
from samples import ROOT

from modelkit.operations.policy_file import parse
from modelkit.operations.validate import Request, validate
from modelkit.operations.validate_report import Report
from modelkit.rules import RULES, word
from modelkit.rules._contract import FAMILIES, LEVELS

EXHIBITS = {exhibit.rule: exhibit for exhibit in museum_script.EXHIBITS}
EMITTED = re.compile(r'"([a-z0-9]+(?:-[a-z0-9]+)+)"')


def judged(path: Path, level: str, policy: str = "") -> Report:
    parsed = parse(tomllib.loads(policy), "modelkit.toml") if policy else None
    return validate(Request((str(path),), level, policy=parsed))


@pytest.mark.parametrize("name", list(RULES))
def test_an_exhibit_breaks_the_rule_at_its_own_level(name: str, museum: Path) -> None:
    exhibit = EXHIBITS[word(name)]
    report = judged(museum / exhibit.path, exhibit.level, exhibit.policy)
    found = {one.rule: one for one in report.findings}
    assert word(name) in found, sorted(found)
    assert LEVELS.index(RULES[name].level) <= LEVELS.index(exhibit.level)
    assert not any("failed" in why for _, _, why in report.coverage.skipped)
    assert not list((museum / "markers").iterdir()), "a payload ran"
    if RULES[name].level != "header":
        lower = LEVELS[LEVELS.index(RULES[name].level) - 1]
        lesser = judged(museum / exhibit.path, lower, exhibit.policy)
        assert word(name) not in {one.rule for one in lesser.findings}


@pytest.mark.parametrize("name", list(museum_script.GOOD))
def test_no_rule_speaks_of_a_good_model(name: str, museum: Path) -> None:
    for level in LEVELS:
        report = judged(museum / "good" / name, level)
        assert report.findings == ()
        assert (report.exit_code, report.coverage.skipped) == (0, [])


@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_has_a_page(name: str) -> None:
    page, rule = RULES.documentation(name), RULES[name]
    first = page.splitlines()[0]
    assert first == f"{rule.title}."
    assert "\n\nWhy: " in page and "\n\nFix: " in page
    assert re.search(r"\n\n    \S", page), "no example"
    assert rule.family in FAMILIES
    assert sum(check is not None for check in (rule.folder, rule.model, rule.values)) <= 1


def test_every_id_that_a_parser_emits_is_a_rule() -> None:
    words = {word(name) for name in RULES}
    known_others = {"bad-request", "git-lfs", "utf-8", "utf-8-sig", "ascii-only"}
    for path in (ROOT / "modelkit").rglob("*.py"):
        if path.stem.startswith(("bundle", "checksum", "shard", "merge", "sums")):
            continue  # they judge lists of digests and their own output, not models
        text = path.read_text()
        for call in re.finditer(r"(?:faults\.add|fault|broken|BrokenFile|Fault)\((?:[^()]|\([^()]*\))*\)", text):
            for found in EMITTED.findall(call[0]):
                assert found in words | known_others, (path, found)


def test_findings_are_the_same_in_every_run(museum: Path) -> None:
    one, other = (judged(museum / "good", "full").to_json() for _ in range(2))
    assert one == other
    broken = [judged(museum / "control-characters-in-name", "sample").to_json() for _ in range(2)]
    assert broken[0] == broken[1]
