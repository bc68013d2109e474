"""One recipe's name for a bundle whose formats were searched one by one."""

from __future__ import annotations

from collections.abc import Mapping

from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.evaluation.selection import MIXED, Candidate


def overall(results: Mapping[str, SearchResult]) -> tuple[str, dict[str, Candidate]] | None:
    """What the manifest recommends: one name, under which every format has its own best artifact.

    Where the formats agree on a recipe, that is the name. Where they do not, it is ``"mixed"``:
    each format's best is written under that name, and a plain recipe is a mix without exceptions.

    Args:
        results: By format.

    Returns:
        The recipe's name, and the artifact of each format to write under it; None where a
        format has nothing that keeps the limits.
    """
    found = {name: result.recommended for name, result in results.items()}
    chosen = {name: candidate for name, candidate in found.items() if candidate is not None}
    if not chosen or len(chosen) < len(results):
        return None
    names = {candidate.recipe for candidate in chosen.values()}
    return (names.pop() if len(names) == 1 else MIXED), chosen
