"""`report.html` of a bundle, and the page of a clip that one was run on: files that stand alone.

Keys of the manifest that are read; each may be missing in a report, and its section then says so or is left out:

- `model` {name, title, hub_id}, `precision`, `versions` {name: version}
- `created`: from `times.json`
- `weights` {kind, identifier, revision, seed, sha256}
- `merge`: fields of `MergeSpec`, and `max_tokens`
- `validation`: `ValidationReport.to_json()`
- `example` {clip, num_tokens, tokens_per_frame, timestamps, thresholds, margins, converged, fidelity {relative_error,
  cosine, error_of_frame, cosine_of_frame}, similarities {spatial, temporal: `Histogram.to_json()`}}
- `int4_losses`: fields of `Losses`
- `files`: [{path, bytes, sha256}], or {path: {bytes, sha256}}
- `thresholds`: fields of `Thresholds`
- `calibration`, `quantization`: fields of `CalibrationFile` and `Quantization`
- `engines`: `EngineRecord.to_json()` of every engine
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm_export.errors import UserError
from sttm_export.runtime.merged import NOT_CONVERGED
from sttm_export.runtime.stills import embed_png
from sttm_export.system import size_text
from sttm_export.validation.charts import errors_chart, similarities_chart, tokens_chart
from sttm_export.validation.gates import UNIT_ROUNDOFF
from sttm_export.validation.layer_charts import losses_chart, sqnr_chart
from sttm_export.validation.player import TEMPLATES, ShownClip, embedded_json, player_script
from sttm_export.validation.results import ValidationReport

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

_SIMILARITIES = {
    "spatial": (
        "In a frame.",
        "Each block of the quadtree that was looked at, against the least alike of its children: at or above "
        "the threshold it becomes one token.",
    ),
    "temporal": (
        "Between frames.",
        "Each two overlapping tokens of consecutive frames: at or above the threshold they become one.",
    ),
}


def render_report(manifest: Mapping[str, Any], picture: str | Path | None = None, clip: ShownClip | None = None) -> str:
    """Return the report as HTML.

    Args:
        manifest: see the top of this file.
        picture: PNG of the merged tokens, embedded.
        clip: what the player shows; none where there is no player.

    Raises:
        UserError: the picture cannot be read or is no PNG.
    """
    model = manifest.get("model") or {}
    title = model.get("title") or model.get("name") or "Bundle"
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            _clip_values(manifest, manifest.get("example") or {}, clip),
            title=title,
            heading=f"{title}: token-merging bundle",
            files=listed_files(manifest.get("files")),
            verdict=verdict(manifest),
            miss=_miss_lines(manifest),
            bits=_bits(manifest),
            picture=None if picture is None else embed_png(Path(picture)),
            roundoffs=UNIT_ROUNDOFF,
        )
    )


def render_clip_report(
    manifest: Mapping[str, Any], example: Mapping[str, Any], picture: str, clip: ShownClip, rejected: str = ""
) -> str:
    """Return a page about one clip that a bundle was run on, as HTML.

    Args:
        manifest: of the bundle.
        example: of the clip, with the keys of a manifest's.
        picture: of the merged tokens, as a data URI.
        clip: what the player shows.
        rejected: why the bundle was rejected, if it was.
    """
    values = _clip_values(manifest, example, clip)
    heading = f"{example['clip']}: merged tokens"
    page = _environment().get_template("clip_report.html.j2")
    return page.render(values, title=example["clip"], heading=heading, picture=picture, rejected=rejected)


def _clip_values(manifest: Mapping[str, Any], example: Mapping[str, Any], clip: ShownClip | None) -> dict[str, Any]:
    """What every page says of a clip, and the one script that it may run."""
    cells, times = _cells(manifest), example.get("timestamps")
    script, policy = player_script()
    return {
        "m": manifest,
        "w": manifest.get("weights") or {},
        "example": example,
        "cells": cells,
        "not_converged": NOT_CONVERGED,
        "policy": policy,
        "script": script,
        "clip": embedded_json(clip.to_json()) if clip else None,
        "chart": _drawn(tokens_chart(example.get("tokens_per_frame") or [], cells, times)),
        "histograms": _histograms(manifest.get("model") or {}, example),
        "errors": _drawn(errors_chart((example.get("fidelity") or {}).get("error_of_frame") or [], times)),
    }


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(size=size_text, figure=format_figure, percent=format_percent)
    return environment


def _drawn(chart: str) -> Markup:
    """Charts escape their own texts; everything else goes through the template's escaping."""
    from markupsafe import Markup

    return Markup(chart)


def _histograms(model: Mapping[str, Any], example: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The charts of similarities, each with its words; none where nothing was counted."""
    rows, published = [], (model.get("merging") or {}).get("thresholds") or []
    for place, (name, histogram) in enumerate((example.get("similarities") or {}).items()):
        title, meaning = _SIMILARITIES[name]
        lines = {f"published for {100 * row['budget']:g} %": row[name] for row in published}
        chart = similarities_chart(histogram, float(example["thresholds"][place]), lines, f"Similarities, {name}")
        facts = {"title": title, "meaning": meaning, "chart": _drawn(chart), "undefined": histogram["undefined"]}
        rows.append(facts | {"held": sum(histogram["held"]), "total": sum(histogram["counts"])})
    return [row for row in rows if row["chart"]]


def _bits(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The charts of what int8 products and INT4 weights cost, each with its words."""
    points = (manifest.get("quantization") or {}).get("points") or []
    layers = (manifest.get("int4_losses") or {}).get("layers") or []
    rows = (
        (
            "Int8 products.",
            "Signal to noise of each layer's products, the worst first; grey ones stay float16.",
            sqnr_chart(points),
        ),
        ("INT4 weights.", "Relative error of the residual stream behind each decoder layer.", losses_chart(layers)),
    )
    return [{"title": title, "meaning": meaning, "chart": _drawn(chart)} for title, meaning, chart in rows if chart]


def write_report(
    path: str | Path, manifest: Mapping[str, Any], picture: str | Path | None = None, clip: ShownClip | None = None
) -> Path:
    """Render and write the report.

    Raises:
        UserError: as `render_report`, or the file cannot be written.
    """
    html = render_report(manifest, picture, clip)
    try:
        Path(path).write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}; choose a writable directory that exists.") from error
    return Path(path)


def verdict(manifest: Mapping[str, Any]) -> str:
    """`passed`, `missed`, or `unchecked` where nothing was validated."""
    results = (manifest.get("validation") or {}).get("results") or []
    if not results:
        return "unchecked"
    return "passed" if all(result["passed"] for result in results) else "missed"


def format_figure(value: float | str | None, digits: int = 3) -> str:
    """Format a measured figure with few digits; manifests write infinite ones as text."""
    if value is None:
        return "-"
    number = float(value)
    if not math.isfinite(number):
        return {math.inf: "∞", -math.inf: "-∞"}.get(number, "NaN")
    return f"{number:.{digits}g}"


def format_percent(value: float | str) -> str:
    """Format a share as a percentage of three digits."""
    return f"{format_figure(100 * float(value))} %"


def _miss_lines(manifest: Mapping[str, Any]) -> list[str]:
    validation = manifest.get("validation") or {}
    if not validation.get("results"):
        return []
    return ValidationReport.from_json({"findings": [], **validation}).miss_lines()


def _cells(manifest: Mapping[str, Any]) -> int:
    merge = manifest.get("merge") or {}
    return int(merge.get("height", 0)) * int(merge.get("width", 0))


def listed_files(files: Any) -> list[dict[str, Any]]:
    """Rows of a manifest's files for people: the device kit's many small sources are one row, without a sha256."""
    rows = [{"path": path, **facts} for path, facts in files.items()] if isinstance(files, Mapping) else files or []
    kit = [row for row in rows if row["path"].startswith("device/")]
    others = [row for row in rows if row not in kit]
    if not kit:
        return others
    total = sum(row["bytes"] for row in kit)
    return [*others, {"path": f"device/ ({len(kit)} files)", "bytes": total, "sha256": ""}]
