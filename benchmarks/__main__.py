"""``python -m benchmarks [NAME ...]`` runs benchmarks in turn, with the options in ``NAMES``; by default all.

Each runs in its own process and prints Markdown for RESULTS.md. All of them take about two hours on two cores.
"""

import subprocess
import sys

# Name -> the module and its options.
NAMES = {
    "cohort": ("cohort", []),
    "cohort-plain": ("cohort", ["--forward", "plain"]),
    "cohort-fast-scnn": ("cohort", ["--pair", "r50-fast-scnn", "--iterations", "3"]),
    "cohort-r101": ("cohort", ["--pair", "r101-r18"]),
    "cohort-slim": ("cohort", ["--pair", "slim", "--iterations", "10"]),
    "losses": ("losses", []),
    "step": ("step", []),
    "step-slim": ("step", ["--pair", "slim", "--iterations", "20"]),
    "teacher": ("teacher_forward", []),
    "teacher-r101": ("teacher_forward", ["--pair", "r101-r18"]),
    "cache": ("teacher_cache", []),
    "cache-slim": ("teacher_cache", ["--pair", "slim"]),
    "store-step": ("store", ["step"]),
    "store-step-fast-scnn": ("store", ["step", "--pair", "r50-fast-scnn", "--steps", "24", "--pairs", "30"]),
    "store-fill": ("store", ["fill"]),
    "store-confirm": ("store", ["confirm", "--pair", "r50-fast-scnn"]),
    "store-confirm-r18": ("store", ["confirm"]),
    "store-errors": ("store_errors", []),
    "resize-small": ("resize", ["small"]),
    "resize-classes": ("resize", ["classes"]),
    "resize-large": ("resize", ["large"]),
    "proof": ("proof", []),
    "proof-intervals": ("proof_intervals", []),
    "proof-pairwise": ("proof_pairwise", []),
    "proof-tails": ("proof_tails", []),
    "scale": ("scale", []),
    "share": ("share", ["--pair", "r50-r18"]),
    "share-slim": ("share", ["--iterations", "20"]),
    "search": ("search", []),
    "startup": ("startup", []),
    "startup-distill": ("startup", ["--with-teacher"]),
    "sweep": ("sweep", ["--pair", "r50-fast-scnn"]),
    "sweep-slim": ("sweep", ["--pair", "slim"]),
    "sweep-profile": ("sweep_profile", []),
}

if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(NAMES):
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        module, options = NAMES[name]
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *options], check=True)
        print()
