"""The picture of a result file, and the files that are published."""

import json
import struct

import helpers_rooms
import pytest

from bench import plot

RESULTS = helpers_rooms.ROOT / "bench" / "results"


def row(frames, policy="budget", budget=0.5):
    figures = {name: {"median_ms": frames * 2.0, "min_ms": 1.0, "peak_mib": frames * 10.0} for name in plot.LOOKS}
    return {"policy": policy, "budget": budget, "frames": frames, "channels": 8, "threads": 2, **figures}


def result(*rows):
    device, versions = {"cpu": "a processor", "gpu": None}, {"onnxruntime": "1", "torch": "2"}
    return {"device": device, "versions": versions, "date": "2026-01-01", "rows": list(rows)}


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib comes with sttm-export[bench]")
    source, picture = tmp_path / "r.json", tmp_path / "r.png"
    source.write_text(json.dumps(result(row(32), row(16), row(64), row(16, "threshold", 1.0))))
    assert plot.main([str(source), str(picture)]) == 0
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1664, 752)
    assert plot.main([str(source), str(picture), "--policy", "threshold"]) == 0


def test_what_the_title_says():
    assert plot.title(row(16)) == "Token merger, thresholds solved for 50 % of the tokens"
    assert plot.title(row(16, budget=0.3)) == "Token merger, thresholds solved for 30 % of the tokens"
    assert plot.title(row(16, "threshold", 1.0)) == "Token merger at published thresholds"


def test_nothing_to_draw_is_told(tmp_path, capsys):
    assert plot.main([str(tmp_path / "no.json"), "x.png"]) == 2
    assert "There is no result file" in capsys.readouterr().err
    source = tmp_path / "r.json"
    source.write_text(json.dumps(result(row(16))))
    assert plot.main([str(source), str(tmp_path / "x.png"), "--policy", "threshold"]) == 2
    assert "no rows of policy 'threshold'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_published_results_name_device_and_versions_and_no_path(path):
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    assert {"date", "device", "versions", "rows"} <= set(data)
    assert "/" not in text.replace("14×14", "")
    for one in (row for row in data["rows"] if "tokens" in row):
        assert one.get("assignment_equal", one.get("assignment_equals_cpu"))
        assert one["tokens"] <= one.get("max_tokens", one["tokens"])
