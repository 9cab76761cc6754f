"""Names are registered once, by rdistill, a user's module or an installed package; who comes second is refused."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.registration.registry import Registry

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module, or an installed package's entry points, where Python looks for them."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("of_user", "of_package", "of_second"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def write(name: str, content: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        importlib.invalidate_caches()

    return write


def install(write: Write, package: str, points: str) -> None:
    write(f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(f"{package}-1.0.dist-info/entry_points.txt", points)


def things() -> Registry[str]:
    """A registry that the modules of a test register in."""
    registry: Registry[str] = Registry("thing", "rdistill.test_things")
    sys.modules["rdistill"].test_things = registry  # type: ignore[attr-defined]
    return registry


REGISTER = "import rdistill\ndef f(): ...\nrdistill.test_things.add('Mine', 'of {}', f)\n"


def test_an_entry_point_is_imported_when_its_name_is_looked_up(write: Write) -> None:
    registry = things()
    write("of_package.py", REGISTER.format("a package"))
    install(write, "of_package", "[rdistill.test_things]\nMine = of_package\n")
    assert list(registry) == ["Mine"] and "of_package" not in sys.modules
    assert registry["Mine"] == "of a package"
    assert "Yours" not in registry and registry.hint("Mind") == "; did you mean 'Mine'?"


def test_a_name_of_two_functions_is_refused(write: Write) -> None:
    registry = things()
    write("of_user.py", REGISTER.format("a user"))
    write("of_second.py", REGISTER.format("another"))
    importlib.import_module("of_user")
    with pytest.raises(UserError, match=r"thing 'Mine' of of_second.f is registered by of_user.f already; register it"):
        importlib.import_module("of_second")
    assert registry["Mine"] == "of a user"


def test_twice_in_one_module_is_refused_and_a_module_imported_anew_is_not(write: Write) -> None:
    registry = things()
    write("of_user.py", REGISTER.format("before"))
    module = importlib.import_module("of_user")
    write("of_user.py", REGISTER.format("after a change"))
    importlib.reload(module)
    assert registry["Mine"] == "of after a change"
    write("of_second.py", REGISTER.format("a") + "def f(): ...\nrdistill.test_things.add('Mine', 'b', f)\n")
    registry = things()
    with pytest.raises(UserError, match=r"is registered by of_second.f already"):
        importlib.import_module("of_second")


def test_rdistill_s_own_name_is_refused(write: Write) -> None:
    registry = things()
    registry.add("Mine", "rdistill's", Registry)
    write("of_user.py", REGISTER.format("a user"))
    with pytest.raises(UserError, match=r"thing 'Mine' of of_user.f is rdistill's own already"):
        importlib.import_module("of_user")
    install(write, "of_package", "[rdistill.test_things]\nMine = of_package\n")
    with pytest.raises(UserError, match=r"thing 'Mine' is rdistill's own, and is registered by the installed of_pack"):
        registry["Mine"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("raise RuntimeError('boom')", "cannot be imported: RuntimeError: boom"),
        ("", "its module of_package registers no thing of that name"),
    ],
)
def test_a_package_that_does_not_hold_what_it_says(write: Write, content: str, problem: str) -> None:
    registry = things()
    write("of_package.py", content)
    install(write, "of_package", "[rdistill.test_things]\nMine = of_package\n")
    with pytest.raises(UserError, match=f"^thing 'Mine' of the installed package of_package: {problem}$"):
        registry["Mine"]


def test_a_name_with_a_space() -> None:
    with pytest.raises(UserError, match="a name is letters, digits and underscores"):
        things().add("my thing", "", things)
