"""Every renderer over every kind of report: verdict first, nothing loaded, nothing broken out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from fixtures import report_data

from reports import RENDERERS, jsonout, text
from reports.html import MAX_BYTES
from reports.markdown import MAX_CHARS

VOID = {"meta", "link", "br", "img", "input", "hr", "wbr", "path", "line", "circle"}


@pytest.fixture(scope="module")
def rendered() -> dict[tuple[str, str], str]:
    return {
        (name, kind): render(make())
        for name, render in RENDERERS.items()
        for kind, make in report_data.ALL.items()
    }


class Page(HTMLParser):
    """The tags, attributes, visible text and inline scripts of a page; notes tags that don't match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.mismatched: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.stack or self.stack.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"style", "script", "title"} & set(self.stack):
            self.words.append(data.strip())


def loads(source: str) -> list[str]:
    """Everything in a page that a browser would fetch by itself."""
    found = []
    for tag, attrs in Page(source).tags:
        for name in (
            "src",
            "srcset",
            "href",
            "data",
            "poster",
            "action",
            "formaction",
            "background",
            "xlink:href",
        ):
            value = attrs.get(name)
            if value and not value.startswith(("data:,", "#")) and not (tag == "a" and name == "href"):
                found.append(f"<{tag} {name}={value}>")
        if tag in ("iframe", "object", "embed", "base"):
            found.append(f"<{tag}>")
    style = "\n".join(re.findall(r"<style>(.*?)</style>", source, re.DOTALL))
    style += "\n".join(
        value or "" for _, attrs in Page(source).tags for name, value in attrs.items() if name == "style"
    )
    return found + re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", style)


@pytest.mark.parametrize("kind", report_data.ALL)
@pytest.mark.parametrize("name", RENDERERS)
def test_says_the_verdict_before_anything_else(
    rendered: dict[tuple[str, str], str], name: str, kind: str
) -> None:
    shown, data = rendered[name, kind], report_data.ALL[kind]()
    word = text.status(data.verdict.status)
    if name == "html":
        assert Page(shown).words[0] == word
    elif name == "markdown":
        assert word in shown.splitlines()[0]
    elif name == "junit":
        first = ElementTree.fromstring(shown).find("testsuite/testcase")
        assert first is not None and first.get("name") == "verdict"
        assert word in (first[0].get("message") or first[0].text or "")
    else:
        assert re.match(r'\{\s*"verdict": \{\s*"status": "' + data.verdict.status, shown)
    code = data.verdict.exit_code
    assert str(code) in shown


@pytest.mark.parametrize("kind", report_data.ALL)
def test_html_is_whole_and_loads_nothing(rendered: dict[tuple[str, str], str], kind: str) -> None:
    shown = rendered["html", kind]
    page = Page(shown)
    assert page.mismatched == [] and page.stack == []
    assert loads(shown) == []
    assert "default-src 'none'" in shown
    assert len(shown.encode()) <= MAX_BYTES


@pytest.mark.parametrize("bad", [
    '<script src="https://cdn.example/bokeh.js"></script>', '<link rel="stylesheet" href="//fonts.example/x.css">',
    "<style>@import 'https://x.example/a.css';</style>", "<style>a{background:url(http://x.example/a.png)}</style>",
    '<img src="http://x.example/p.gif">', "<iframe></iframe>", '<p style="background:url(//x.example)">',
])  # fmt: skip
def test_the_check_for_loads_finds_them(bad: str) -> None:
    assert loads(f"<html><body>{bad}</body></html>")


def test_html_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.html.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="over the limit"):
        RENDERERS["html"](report_data.invalid())


@pytest.mark.parametrize(("kind", "like"), [("hostile", "full"), ("hostile_experiment", "regression")])
def test_nothing_from_outside_breaks_out_of_html(
    rendered: dict[tuple[str, str], str], kind: str, like: str
) -> None:
    """The hostile text closes scripts, opens tags and attributes: none of it may become markup."""
    shown, harmless = rendered["html", kind], rendered["html", like]
    page = Page(shown)
    assert not [attrs for tag, attrs in page.tags if tag == "img" or any(k.startswith("on") for k in attrs)]
    assert sum(tag == "script" for tag, _ in page.tags) == sum(
        tag == "script" for tag, _ in Page(harmless).tags
    )
    assert "<script>alert" not in shown and "<img src=x" not in shown
    assert "49" not in " ".join(word for word in page.words if "7*7" not in word)


def test_the_escaping_check_notices_markup() -> None:
    page = Page(f"<html><body><p>{report_data.HOSTILE}</p></body></html>")
    assert [tag for tag, _ in page.tags if tag == "img"]


@pytest.mark.parametrize("kind", ["hostile", "hostile_experiment"])
def test_nothing_from_outside_breaks_out_of_markdown(rendered: dict[tuple[str, str], str], kind: str) -> None:
    shown = rendered["markdown", kind]
    fences = re.split(r"^`{3,}(?:sh)?$", shown, flags=re.MULTILINE)
    outside = re.sub(r"`[^`\n]*`", "", "".join(fences[::2]))
    assert "<script" not in outside and "<img" not in outside


@pytest.mark.parametrize("kind", report_data.ALL)
def test_markdown_tables_are_rectangular(rendered: dict[tuple[str, str], str], kind: str) -> None:
    shown = rendered["markdown", kind]
    assert len(shown) <= MAX_CHARS
    tables = re.findall(r"(?:^\|.*\|$\n?)+", shown, re.MULTILINE)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.strip().splitlines()}
        assert len(widths) == 1, table
    if kind in ("full", "pass"):
        assert len(tables) >= 4


@pytest.mark.parametrize("kind", report_data.ALL)
def test_junit_counts_its_own_cases(rendered: dict[tuple[str, str], str], kind: str) -> None:
    suites = ElementTree.fromstring(rendered["junit", kind])
    for element in [suites, *suites.iter("testsuite")]:
        assert int(element.get("tests", "")) == len(list(element.iter("testcase")))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.get(name, "")) == len(list(element.iter(tag)))
    data = report_data.ALL[kind]()
    good = data.verdict.status in ("pass", "improvement")
    first = suites.find("testsuite/testcase")
    assert first is not None and good == all(child.tag == "system-out" for child in first)
    names = {case.get("name", "") for case in suites.iter("testcase")}
    assert {one.name for one in data.invariants if "<" not in one.name} <= names
    assert all(
        any(name.startswith(gate.metric) for name in names) for gate in data.gates if "<" not in gate.metric
    )


@pytest.mark.parametrize("kind", report_data.ALL)
def test_json_comes_back_the_same(rendered: dict[tuple[str, str], str], kind: str) -> None:
    shown = rendered["json", kind]
    back = jsonout.parse(shown)
    assert back.verdict == report_data.ALL[kind]().verdict
    assert jsonout.parse(jsonout.render(back)) == back


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_unknown_is_said_and_never_zero(rendered: dict[tuple[str, str], str], name: str) -> None:
    shown = rendered[name, "interrupted"]
    assert shown.count("unknown") > 10
    assert "0.00 s" not in shown
    assert "0%" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", shown, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_long_lists_are_cut_and_say_so(rendered: dict[tuple[str, str], str], name: str) -> None:
    shown = rendered[name, "many_violations"]
    assert f"and {12_345 - (20 if name == 'html' else 5):,} more" in shown
    assert "12,345" in shown


@pytest.mark.parametrize("name", RENDERERS)
def test_the_same_report_is_rendered_the_same(name: str) -> None:
    def stable(shown: str) -> str:
        return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}|p\d{4,}", "", shown)

    assert stable(RENDERERS[name](report_data.no_faults())) == stable(
        RENDERERS[name](report_data.no_faults())
    )
