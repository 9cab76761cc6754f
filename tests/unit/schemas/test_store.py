"""What is counted and verified of a store of views is what its types say."""

from __future__ import annotations

import json
from pathlib import Path

from typed_files import unlike

from rdistill.distill.store_files import ABOUT, sealed, store_files
from rdistill.schemas.store import StoreAbout, StoreContents, StoreVerified
from rdistill.store.contents import contents, verify


def test_contents_and_verification(tmp_path: Path) -> None:
    files = store_files(tmp_path / "store")
    about: StoreAbout = {"teacher": "teacher.py", "checkpoint": None, "forward": "fused", "bits": 16, "top_k": None}
    assert unlike(about, StoreAbout) == []
    files.write(f"1abc/{ABOUT}", json.dumps(about).encode())
    files.write("1abc/aa/0", sealed(b"0123456789"))
    (held,) = contents(files)
    assert unlike(held, StoreContents) == [] and held["about"]["bits"] == 16
    assert unlike(verify(files, notify=print), StoreVerified) == []
