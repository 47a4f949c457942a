"""How much of each source a mixture takes.

weights, sizes ──▶ shares ──▶ targets ──▶ how much is taken, how often, and what is lacking
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from stillroom.errors import ParamsError
from stillroom.mixing.scan import CHAT


@dataclass(frozen=True)
class Plan:
    """In the mixture's unit, by source or `chat/FILE`: its share, what it should give, and what it can."""

    shares: dict[str, float]
    targets: dict[str, float]
    stock: dict[str, float]

    @property
    def taken(self) -> dict[str, float]:
        """What each source gives."""
        return {origin: min(target, self.stock[origin]) for origin, target in self.targets.items()}

    def shortfall(self, origin: str) -> int:
        """What a source lacks."""
        return max(0, round(self.targets[origin] - self.stock[origin]))


def shares(
    weights: Mapping[str, float], sizes: Mapping[str, int], temperature: float | None
) -> dict[str, float]:
    """The sources with a weight, as shares that add up to 1.

    With a temperature T a source's weight is multiplied by its size to the power of 1/T (mT5,
    arXiv:2010.11934): 1 mixes by size, and the higher T, the more equal the sources.
    """
    given = {origin: weight for origin, weight in weights.items() if weight}
    if temperature is not None:
        given = {
            origin: weight * sizes.get(origin, 0) ** (1 / temperature) for origin, weight in given.items()
        }
    total = sum(given.values())
    return {origin: weight / total if total else 0.0 for origin, weight in given.items()}


def of_files(
    weights: Mapping[str, float], files: Mapping[str, float], parts: Iterable[str]
) -> dict[str, float]:
    """The weights with the chat's divided among its files, `parts` being all `chat/FILE` and other sources.

    files: a weight for each name or glob, of the path below the input folder or its last part; the first one
    that fits counts, and a file that none fits weighs 1. Raises ParamsError where a glob fits no file.
    """
    prefix = f"{CHAT}/"
    names = sorted(part.removeprefix(prefix) for part in parts if part.startswith(prefix))
    fitting = {name: next((glob for glob in files if _fits(name, glob)), None) for name in names}
    if unused := sorted(files.keys() - set(fitting.values())):
        raise ParamsError(
            "no conversation that is left is from such a file",
            where=f"params.yaml: mix.chat_files: {unused[0]}",
            hint=f"there are {', '.join(names[:5]) or 'none'}{' …' if len(names) > 5 else ''}",
        )
    given = {name: 1.0 if glob is None else files[glob] for name, glob in fitting.items()}
    total = sum(given.values())
    divided = {f"{prefix}{name}": weights[CHAT] * weight / total for name, weight in given.items() if weight}
    return {**divided, **{origin: weight for origin, weight in weights.items() if origin != CHAT}}


def _fits(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(PurePosixPath(name).name, glob)


def plan(shares: Mapping[str, float], sizes: Mapping[str, int], epochs: float, total: int | None) -> Plan:
    """What each source gives: its share, at most `epochs` times all that it has.

    Without a total, the mixture is as large as it can be with every source that has records giving its
    whole share.
    """
    stock = {origin: epochs * sizes.get(origin, 0) for origin in shares}
    scarcest = min((stock[o] / share for o, share in shares.items() if stock[o] and share), default=0.0)
    size = scarcest if total is None else float(total)
    return Plan(dict(shares), {origin: share * size for origin, share in shares.items()}, stock)
