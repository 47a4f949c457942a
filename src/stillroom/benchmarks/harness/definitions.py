"""The leaderboard's task definitions: which of lm-eval's, with how many examples, pinned by hash.

Needs no lm-eval: what it has installed is looked at when a task is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from stillroom.artifacts import sha256
from stillroom.errors import ParamsError

SUBJECTS = "mmlu/default/mmlu_*.yaml"


def place(name: str) -> str:
    """What the ids of a task's samples begin with, by lm-eval's name of it.

    >>> place("mmlu_high_school_physics"), place("arc_challenge")
    ('mmlu/high_school_physics', 'arc_challenge')
    """
    return f"mmlu/{name.removeprefix('mmlu_')}" if name.startswith("mmlu_") else name


def sample_id(name: str, number: int) -> str:
    """A question's id."""
    return f"{place(name)}/{number:05}"


@dataclass(frozen=True)
class Definition:
    """A task as the leaderboard sets it.

    path: its YAML below lm-eval's folder of tasks.  files: globs of all that make it up.
    shots: few-shot examples.  metric, filter: the figure among those that lm-eval computes.
    spare: rows that are drawn beyond the examples, in case the question itself is among them.
    """

    path: str
    files: tuple[str, ...]
    shots: int
    metric: str
    sha256: str
    filter: str = "none"
    spare: int = 0

    def check(self, installed: Path) -> None:
        """Raise ParamsError where what lm-eval has in its folder of tasks is another definition."""
        paths = sorted(path for glob in self.files for path in installed.glob(glob))
        found = sha256("".join(f"{p.relative_to(installed).as_posix()} {sha256(p)}\n" for p in paths))
        if found != self.sha256:
            what = f"lm-eval {version('lm_eval')} defines this task otherwise than the pinned release"
            hint = "install the pinned one: pip install -c constraints.txt -e '.[leaderboard]'"
            raise ParamsError(what, where=str(installed / self.path), hint=hint)


DEFINITIONS: dict[str, Definition] = {
    "arc_challenge": Definition(
        "arc/arc_challenge.yaml",
        ("arc/arc_challenge.yaml", "arc/arc_easy.yaml"),
        25,
        "acc_norm",
        "f09ec6476a2d3c8e91075ac0f259983bea6d74b111cfaebd04bac21a1ad81d30",
    ),
    "hellaswag": Definition(
        "hellaswag/hellaswag.yaml",
        ("hellaswag/hellaswag.yaml", "hellaswag/utils.py"),
        10,
        "acc_norm",
        "df8587efba176453002f17b47865fb90d0d1d0db8721ebcce14f425d8b74ff80",
        spare=1,
    ),
    "mmlu": Definition(
        "mmlu/default/mmlu_{subject}.yaml",
        (SUBJECTS, "mmlu/default/_default_template_yaml"),
        5,
        "acc",
        "04a5c6017b1739868b65008d3e2c382bbb1641ad895a4d26d3e81bacc69b2d73",
    ),
    "truthfulqa_mc2": Definition(
        "truthfulqa/truthfulqa_mc2.yaml",
        ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa/truthfulqa_mc2.yaml", "truthfulqa/utils.py"),
        0,
        "acc",
        "c218321c793e31cb710a73cdff8a4a21137122766df26851bf6378d2eff54fdf",
    ),
    "winogrande": Definition(
        "winogrande/default.yaml",
        ("winogrande/default.yaml", "winogrande/preprocess_winogrande.py"),
        5,
        "acc",
        "22295fabd040d1ee7b3179c01cdbf94866fca9425930cbd6298098494e207ee3",
        spare=1,
    ),
    "gsm8k": Definition(
        "gsm8k/gsm8k.yaml",
        ("gsm8k/gsm8k.yaml",),
        5,
        "exact_match",
        "893f618b0b5df9c0031be61669e61321362476bc8f13abf1343bf24b24c999f0",
        filter="strict-match",
    ),
}
"""by name, in the leaderboard's order"""
