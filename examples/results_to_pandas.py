"""The results of a sweep in pandas: the table, the learning curves, the verdict; written as CSV and Markdown.

Run it: python examples/results_to_pandas.py [WORK_DIR]

Without a folder, a sweep of four trials is run first. Works while a sweep runs, too: trials that train are in the table
as `running`. docs/api.md has the columns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas
import shared

import rdistill

work_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else shared.sweep()
table = rdistill.load_results(work_dir)
swept = [name for name in table.columns if name.startswith(("distill.", "optim_wrapper.", "model."))]
finished = table[table.status == "finished"]
if finished.empty:
    sys.exit(f"{work_dir}: no trial has finished yet; of {len(table)}, {(table.status == 'running').sum()} run")
print(finished[["id", *swept, "mIoU", "gain", "seconds"]].to_string(index=False, float_format="%.2f"))

# How does what was swept go with the score? Ranks, because weights span powers of ten; few trials say little.
numbers = finished[swept].select_dtypes("number").dropna(axis="columns", how="all")
print("rank correlation with mIoU:")
print(numbers.rank().corrwith(finished.mIoU.rank()).to_string(float_format="%.2f"))

# The learning curve of each trial: a row a validation.
curves = pandas.concat(
    [
        pandas.DataFrame(json.loads((work_dir / "trials" / name / "trial.json").read_text())["history"]).assign(id=name)
        for name in finished.id
    ]
)
print(curves.pivot(index="iter", columns="id", values="mIoU").to_string(float_format="%.1f"))

summary = json.loads((work_dir / "summary.json").read_text())
print(summary.get("verdict") or "no verdict yet: the sweep has not ended")
finished.to_csv(work_dir / "finished.csv", index=False)
(work_dir / "finished.html").write_text(finished.to_html(index=False, float_format="%.2f"))
