"""`report.html` of a bundle: one file that stands alone, made from the manifest and from what stands beside it.

Keys that are read; each may be missing, and its section then says so or is left out:

- `model` {name, title, hub_id}, `precision`, `versions` {name: version}
- `created`: from `times.json`
- `weights` {kind, identifier, revision, seed, sha256}
- `merge`: fields of `MergeSpec`, and `max_tokens`
- `validation`: `ValidationReport.to_json()`
- `int4_losses`: fields of `Losses`
- `example` {clip, num_tokens, tokens_per_frame, timestamps, thresholds, converged}
- `files`: [{path, bytes, sha256}], or {path: {bytes, sha256}}
- `engines`: `EngineRecord.to_json()` of every engine
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError
from sttm_export.runtime.merged import NOT_CONVERGED
from sttm_export.system import size_text
from sttm_export.validation.charts import tokens_chart
from sttm_export.validation.gates import UNIT_ROUNDOFF
from sttm_export.validation.results import ValidationReport

_TEMPLATES = Path(__file__).parent / "templates"
_PNG = b"\x89PNG\r\n\x1a\n"


def render_report(manifest: Mapping[str, Any], picture: str | Path | None = None) -> str:
    """Return the report as HTML.

    Args:
        manifest: see the top of this file.
        picture: PNG of the merged tokens, embedded.

    Raises:
        UserError: the picture cannot be read or is no PNG.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=size_text, figure=format_figure)
    model, example = manifest.get("model") or {}, manifest.get("example") or {}
    cells = _cells(manifest)
    # The chart escapes its own texts; everything else goes through the template's escaping.
    chart = Markup(tokens_chart(example.get("tokens_per_frame") or [], cells, example.get("timestamps")))
    return environment.get_template("report.html.j2").render(
        m=manifest,
        title=model.get("title") or model.get("name") or "Bundle",
        example=example,
        cells=cells,
        files=listed_files(manifest.get("files")),
        verdict=verdict(manifest),
        miss=_miss_lines(manifest),
        not_converged=NOT_CONVERGED,
        chart=chart,
        picture=None if picture is None else _embed(Path(picture)),
        roundoffs=UNIT_ROUNDOFF,
    )


def write_report(path: str | Path, manifest: Mapping[str, Any], picture: str | Path | None = None) -> Path:
    """Render and write the report.

    Raises:
        UserError: as `render_report`, or the file cannot be written.
    """
    html = render_report(manifest, picture)
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


def _embed(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read the picture {path}: {error.strerror}; give a PNG file, or none.") from error
    if not data.startswith(_PNG):
        raise UserError(f"{path} is not a PNG picture; give the PNG that the drawing of tokens wrote.")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
