"""Every relative link of every page leads to a file or a heading that is there, on the Git host and on the site."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPO

LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: *(\S+)|(?:src|href|srcset)=\"([^\"]+)\"", re.M)
CODE = re.compile(r"^(```|~~~).*?^\1$|`[^`\n]+`", re.M | re.S)


def pages() -> list[Path]:
    """The Markdown files that Git knows or would take: none of a virtual environment or of a run."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return [REPO / name for name in sorted(done.stdout.splitlines()) if (REPO / name).is_file()]


PAGES = pages()


def links(text: str) -> Iterator[str]:
    """The targets of a page's links and images which are not at an address of their own."""
    for groups in LINK.findall(CODE.sub("", text)):
        target = next(filter(None, groups))
        if not re.match(r"\w+:", target):
            yield target


def anchors(text: str) -> set[str]:
    """The names that a Git host gives headings: the second of two equal ones ends in -1."""
    names: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ (.+?) *$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link counts by its words
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.add(f"{name}-{names[name]}" if name in names else name)
        names[name] = names.get(name, 0) + 1
    return found | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def problem(page: Path, target: str) -> str | None:
    """Why a link leads nowhere, or None."""
    name, _, anchor = target.partition("#")
    place = (page.parent / name).resolve() if name else page
    if name.startswith("/"):
        return "begins with /, which the Git host and the site read in different ways"
    if not place.is_relative_to(REPO):
        return "leaves the repository"
    if not place.exists():
        return "there is no such file"
    if place.is_dir():
        return "is a folder, which the site cannot show: link its README.md or a file of it"
    if anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8")):
        return f"there is no such heading in {place.relative_to(REPO)}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    problems = {target: problem(page, target) for target in links(text)}
    assert {target: reason for target, reason in problems.items() if reason} == {}


def test_the_pages_are_seen() -> None:
    names = {str(page.relative_to(REPO)) for page in PAGES}
    assert {"README.md", "docs/README.md", "docs/cluster/README.md", "examples/rdistill-example/README.md"} <= names


def test_a_link_that_leads_nowhere_is_seen() -> None:
    page = REPO / "docs" / "README.md"
    text = "[a](gone.md) ![b](images/gone.png) [c](api.md#gone) [d](/docs/api.md) [e](../../x.md)\n[f]: gone.md\n"
    text += '[g](cluster) <img src="gone.svg"> `[code](gone.md)` [there](api.md#what-is-stable) [out](https://example.org)\n'
    targets = list(links(text))
    assert len(targets) == 9 and [target for target in targets if not problem(page, target)] == [
        "api.md#what-is-stable"
    ]
    assert anchors("# A `b`, c\n## A\n## A\n```\n# no heading\n```\n") == {"a-b-c", "a", "a-1"}


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without what its tags name."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def test_the_site_has_every_page_of_the_documentation_once() -> None:
    """`make docs` says so too; this needs no site."""
    navigation = yaml.load((REPO / "mkdocs.yml").read_text(), _Loader)["nav"]
    entries = [entry for section in navigation for entry in next(iter(section.values()))]
    shown = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    assert len(shown) == len(set(shown))
    assert [name for name in shown if not (REPO / name).is_file()] == []
    below = [str(page.relative_to(REPO)) for page in PAGES]
    wanted = {name for name in below if name.startswith(("docs/", "examples/", "studies/")) or "/" not in name}
    assert wanted <= set(shown)
