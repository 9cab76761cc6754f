"""mkdocs' hook for the site: which files are pages, and where they stand.

The site has the repository's own folders (README.md, docs/, examples/, benchmarks/RESULTS.md), so that a relative link
means the same on the site as on the Git host. What a page links to outside of docs/ comes along: Markdown as a page,
anything else as the file it is. What is not there is left out, and the link to it then ends a strict build.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPO = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "studies/README.md")
FOLDERS = ("docs", "examples")
OF_THE_SITE = PurePosixPath("docs/site")
LEFT_OUT = ("__pycache__", ".egg-info")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, the repository's pages, and what they link to."""
    site = Files([file for file in files if file.src_dir != config.docs_dir])
    waiting = [PurePosixPath(page) for page in PAGES]
    for folder in FOLDERS:
        waiting += [PurePosixPath(path.relative_to(REPO)) for path in sorted((REPO / folder).rglob("*"))]
    while waiting:
        path = waiting.pop()
        name, place = str(path), REPO / path
        left_out = OF_THE_SITE in path.parents or any(part in name for part in LEFT_OUT)
        if left_out or site.get_file_from_path(name) or not place.is_file():
            continue
        site.append(File(name, str(REPO), config.site_dir, config.use_directory_urls))
        if path.suffix == ".md":
            waiting += linked_from(path)
    return site


def linked_from(page: PurePosixPath) -> list[PurePosixPath]:
    """The files of the repository that a page links to, as paths below its root."""
    targets = [target for target in LINK.findall((REPO / page).read_text()) if ":" not in target]
    places = [(REPO / page.parent / target).resolve() for target in targets]
    return [PurePosixPath(place.relative_to(REPO)) for place in places if place.is_relative_to(REPO)]
