"""The names of all commands, as Typer has them."""

from __future__ import annotations

from collections.abc import Iterator

import click


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in group.commands.items():
        yield from every_command(inner, (*path, name)) if hasattr(inner, "commands") else [(*path, name)]
