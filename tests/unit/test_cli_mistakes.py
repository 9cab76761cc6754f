"""Forty wrong command lines and sweep files: a line of what is wrong, and status 2, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command, Tiny

from rdistill.cli import MAX_ERRORS

FILES = {
    "file": b"",
    "bad.py": b"x = (\n",
    "exit.py": b"raise SystemExit(0)\n",
    "empty.py": b"",
    "list.json": b"[1]",
    "weights.pth": b"abc",
    "a.png": b"no png",
    "bad.yaml": b"config: [\n",
    "list.yaml": b"- 1\n",
    "bytes.yaml": b"\x00\xff",
    "gone.yaml": b"config: gone.py\nspace: {k: {type: choice, values: [1]}}\nsearch: {num_trials: 1}\n",
}
MISTAKES = [
    ("sweep bad.yaml", "bad.yaml:2: is not valid YAML"),
    ("sweep list.yaml", "must be a mapping with the keys config and space, got a list"),
    ("sweep bytes.yaml", "is not UTF-8 text"),
    ("sweep gone.yaml", "gone.yaml: config: no such file gone.py"),
    ("sweep folder", "folder: is a folder; name the sweep file in it"),
    ("sweep nothing.yaml", "nothing.yaml: no such sweep file"),
    ("sweep STUDENT", "must be a mapping with the keys config and space"),
    ("sweep gone.yaml --work-dir file", "--work-dir file: is a file; name a folder"),
    ("sweep gone.yaml --work-dir xyz://a/b", "neither pyarrow nor fsspec knows this storage"),
    ("train bad.py", "bad.py: cannot be read: SyntaxError"),
    ("train exit.py", "it calls sys.exit(0); a config only assigns"),
    ("train empty.py", "not a complete training config"),
    ("train list.json", "a config has keys and values at its top, not a list"),
    ("train folder", "a config is a file such as folder/NAME.py"),
    ("train file", "cannot be read"),
    ("train STUDENT --size -3", "--size: must be pixels such as 128"),
    ("train STUDENT --size 64x", "--size: must be pixels such as 128"),
    ("train STUDENT --iters 0", "--iters: must be at least 1, got 0"),
    ("train STUDENT --val-interval 0", "--val-interval: must be at least 1, got 0"),
    ("train STUDENT --label-map x", "--label-map: must be VALUE=LABEL"),
    ("train STUDENT --track nothing", "track"),
    ("train STUDENT --min-workers 3", "min_workers: must be from 1 to workers (1), got 3"),
    ("train STUDENT --gpus-per-worker 1.5", "gpus_per_worker: must be 0, a part of one GPU"),
    ("train STUDENT --work-dir file/below", "lies below"),
    ("train STUDENT --set model.decode_head.num_classes=x", "must be a number, got 'x'"),
    ("predict STUDENT weights.pth a.png --out out", "a.png: cannot be read as an image"),
    ("predict STUDENT gone.pth IMAGE --out out", "gone.pth: no such checkpoint file"),
    ("predict STUDENT weights.pth IMAGE --out out", "weights.pth"),
    ("predict STUDENT folder IMAGE --out out", "folder"),
    ("predict STUDENT weights.pth nothing.png --out out", "nothing.png: no such image, folder or pattern"),
    ("export STUDENT weights.pth a.onnx", "weights.pth"),
    ("export STUDENT gone.pth a.onnx", "gone.pth: no such checkpoint file"),
    ("export STUDENT weights.pth folder", "folder: is a folder; name the file to write"),
    ("export STUDENT weights.pth a.onnx --opset x", "--opset: must be a whole number"),
    ("report folder", "holds neither a sweep"),
    ("report file", "file: no such folder"),
    ("eval STUDENT weights.pth", "weights.pth"),
    ("eval STUDENT folder", "folder"),
    ("eval list.yaml weights.pth", "a config has keys and values at its top, not a list"),
    ("data synthetic file", "need a directory, got a file"),
    ("data synthetic out --size 100000000", "size must be <= 4096"),
    ("data synthetic out --num-train -1", "num_train must be >= 1"),
    ("data synthetic out --seed -1", "seed must be >= 0"),
    ("layers bad.py", "bad.py: cannot be read: SyntaxError"),
    ("layers STUDENT --size 0", "--size: must be pixels such as 128"),
    ("layers STUDENT --depth -1", "--depth: must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_a_few_lines_and_status_2(
    command: Command, tiny_without_teacher: Tiny, tmp_path: Path, line: str, said: str
) -> None:
    if line.startswith("export ") and "--opset" not in line:  # what is given wrong to an option is found before
        pytest.importorskip("onnxscript", reason="pip install 'rdistill[onnx]'")
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    image = min((tiny_without_teacher.data_root / "img_dir" / "val").iterdir())
    words = {"STUDENT": str(tiny_without_teacher.folder / "student.py"), "IMAGE": str(image)}
    arguments = [words.get(word, word) for word in line.split()]
    if arguments[0] in ("train", "eval", "export") and words["STUDENT"] in arguments:
        arguments += ["--data-root", str(tiny_without_teacher.data_root)]
    result = command(*arguments)
    lines = result.err.splitlines()
    assert result.status == 2 and said in result.err, result
    assert 1 <= len(lines) <= MAX_ERRORS and all(text.startswith("error: ") for text in lines), result
    # Nothing is made but empty folders, to see that they can be, and the lock of a work dir.
    made = {path.name for path in tmp_path.rglob("*") if path.is_file()} - FILES.keys()
    assert all("lock" in name for name in made), made
