"""Times in words, and in one sentence whether merging pays."""

from __future__ import annotations

from sttm_export.timing.compare import FEWEST, judge
from sttm_export.timing.decoder import ALL, FIRST, MERGED
from sttm_export.timing.result import Computed, Figure, Result, Times
from sttm_export.timing.vision import ENCODER, MERGER


def time_text(milliseconds: float) -> str:
    """`0.412 ms`, `12.3 ms`, `4.21 s`."""
    return f"{milliseconds / 1e3:.3g} s" if milliseconds >= 1e3 else f"{milliseconds:.3g} ms"


def middle_text(times: Times) -> str:
    """The middle half of the runs, `0.41–0.46 ms`; of a single one that it is alone."""
    if times.runs == 1:
        return "one run"
    if (times.lower >= 1e3) == (times.upper >= 1e3):
        return f"{time_text(times.lower).split()[0]}–{time_text(times.upper)}"
    return f"{time_text(times.lower)}–{time_text(times.upper)}"


def verdict(result: Result) -> str:
    """Say whether merging pays where it was measured, by the rule of `compare`; in what way, where no decoder tells."""
    merged, whole = result.figure(FIRST, MERGED), result.figure(FIRST, ALL)
    if merged is not None and whole is not None:
        return _first_token(merged, whole)
    found = {row.name: row for row in result.computed}
    few = any(figure.times.runs < FEWEST for figure in result.figures if figure.name in {ENCODER, MERGER})
    return _beside_encoder(
        found, f" Fewer than {FEWEST} runs say little; give more --runs and --seconds." if few else ""
    )


def _first_token(merged: Figure, whole: Figure) -> str:
    share = f"{merged.times.median / whole.times.median:.1%} of the time that all tokens take"
    found = judge(whole.times, merged.times)
    if found == "faster":
        return f"Merging pays here: the first token comes after {share}, at least."
    if found == "too few runs":
        return f"The first token comes after {share}, by too few runs to tell more; give more --runs and --seconds."
    if found == "same":
        return f"Merging makes no difference beyond noise here: the first token comes after {share}."
    return f"Merging does not pay here: the first token comes after {share}, as far as the graphs of this bundle tell."


def _beside_encoder(found: dict[str, Computed], doubt: str) -> str:
    kept, share, limit = (found.get(name) for name in ("tokens kept", "merger, of encoding", "break-even"))
    if kept is None or share is None:
        return ""
    words = f"Merging keeps {kept.value:.3g} % of the tokens and adds {share.value:.3g} % to encoding"
    if limit is None:
        return f"{words}; it saves nothing on this clip.{doubt}"
    limit_text = f"{limit.value:.3g} {limit.unit.split()[0]}"
    return f"{words}; it pays where a token of prefill takes more than {limit_text}.{doubt}"
