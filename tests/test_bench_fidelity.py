"""Fidelity at a budget: the driver, and the published figures recomputed by other code."""

import json

import helpers_rooms
import numpy as np
import pytest
import torch

from bench import fidelity, fidelity_plot, fidelity_rule, fidelity_table
from bench.methods import PEERS, TITLES, published, published_pairs, sttm
from bench.peers.reduced import OutOfReach
from bench.sources import files, videos
from bench.sources.clip import Clip, Source, read_features
from sttm_export.errors import UserError
from sttm_export.merging.reference import merge

RESULT = helpers_rooms.ROOT / "bench" / "results" / "fidelity.json"
GOLDEN = helpers_rooms.ROOT / "tests" / "golden"
FEATURES = {"bikes": "bikes_32x14x14", "bunny": "bunny_16x14x14", "carphone": "carphone_16x14x14"}


@pytest.fixture(scope="module")
def result():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def golden(clip):
    """[T, C, H, W] as the file has it."""
    return np.load(GOLDEN / f"{FEATURES[clip]}.npz")["features"].astype(np.float64)


def rows_of(result, **wanted):
    return [row for row in result["rows"] if all(row[key] == value for key, value in wanted.items())]


def figures(cells, groups):
    """Relative error and mean cosine of means of groups; cells [T·N, C] in float64. Shares nothing with the bench."""
    kinds, slot = np.unique(groups, return_inverse=True)
    tokens = np.stack([cells[slot == kind].mean(0) for kind in range(len(kinds))])
    return compared(cells, tokens[slot])


def compared(cells, given):
    lengths = np.sqrt((cells**2).sum(1) * (given**2).sum(1))
    return np.sqrt(((cells - given) ** 2).sum() / (cells**2).sum()), ((cells * given).sum(1) / lengths).mean()


def check(row, error, cosine):
    # The file has four digits; features are summed in float32 where methods run.
    assert row["relative_error"] == pytest.approx(error, rel=2e-3, abs=1e-6)
    assert row["cosine"] == pytest.approx(cosine, rel=2e-3)


@pytest.mark.parametrize("clip", FEATURES)
@pytest.mark.parametrize("budget", [0.2, 0.5, 0.9])
def test_pooling_recomputed(result, clip, budget):
    [row] = rows_of(result, source="golden", clip=clip, method="pooling", budget=budget)
    features = golden(clip)
    frames, _, height, width = features.shape
    side = row["kept"] / frames
    h = int(np.sqrt(side))
    w = round(side / h)
    places = [(t, y * h // height, x * w // width) for t in range(frames) for y in range(height) for x in range(width)]
    groups = [(t * h + y) * w + x for t, y, x in places]
    check(row, *figures(features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1]), groups))


@pytest.mark.parametrize("clip", FEATURES)
def test_frame_dropping_recomputed(result, clip):
    [row] = rows_of(result, source="golden", clip=clip, method="frames", budget=0.5)
    features = golden(clip).transpose(0, 2, 3, 1)
    frames = len(features)
    stays = [int((k + 0.5) * frames / (frames // 2)) for k in range(frames // 2)]
    shown = [min(stays, key=lambda one: (abs(one - t), one)) for t in range(frames)]
    assert row["kept"] == len(stays) * 196
    check(row, *compared(features.reshape(-1, 16), features[shown].reshape(-1, 16)))


@pytest.mark.parametrize("clip", FEATURES)
@pytest.mark.parametrize("budget", [0.3, 0.7])
def test_framefusion_recomputed(result, clip, budget):
    [row] = rows_of(result, source="golden", clip=clip, method="framefusion", budget=budget)
    features = golden(clip).transpose(0, 2, 3, 1).reshape(len(golden(clip)), 196, 16)
    frames = len(features)
    pairs = []
    for t in range(1, frames):
        for p in range(196):
            a, b = features[t - 1, p], features[t, p]
            pairs.append((a @ b / np.sqrt((a @ a) * (b @ b)), t, p))
    joined = {(t, p) for _, t, p in sorted(pairs, reverse=True)[: frames * 196 - row["wanted"]]}
    groups, number = np.zeros((frames, 196), int), 0
    for p in range(196):
        for t in range(frames):
            number += (t, p) not in joined
            groups[t, p] = number
    assert row["kept"] == row["wanted"] == number
    check(row, *figures(features.reshape(-1, 16), groups.ravel()))


@pytest.mark.parametrize("clip", FEATURES)
@pytest.mark.parametrize("method", ["sttm-budget", "sttm-calibrated"])
def test_sttm_recomputed_by_the_reference_at_the_thresholds_that_were_applied(result, clip, method):
    features = golden(clip)
    for row in rows_of(result, source="golden", clip=clip, method=method):
        if row["budget"] not in {0.3, 0.5}:
            continue
        spatial, temporal = row["thresholds"]
        found = merge(torch.from_numpy(features), spatial, temporal, temporal_step=True)
        # Solved thresholds stand in gaps that rounding does not bridge (rule 8.4).
        assert len(found.tokens) == row["kept"]
        given = found.tokens[found.assignment].numpy().reshape(-1, 16).astype(np.float64)
        check(row, *compared(features.transpose(0, 2, 3, 1).reshape(-1, 16), given))


def test_published_thresholds_recomputed_by_the_reference(result):
    for clip in FEATURES:
        rows = rows_of(result, source="golden", clip=clip, method="sttm-published")
        assert [tuple(row["thresholds"]) for row in rows] == published_pairs()
        for row in rows[1:3]:
            features = golden(clip)
            found = merge(torch.from_numpy(features), *row["thresholds"])
            assert len(found.tokens) == pytest.approx(row["kept"], rel=0.002)
            given = found.tokens[found.assignment].numpy().reshape(-1, 16).astype(np.float64)
            cells = features.transpose(0, 2, 3, 1).reshape(-1, 16)
            assert row["relative_error"] == pytest.approx(compared(cells, given)[0], rel=0.005)
            # What docs/fidelity.md says of leaves that count alike whatever their area: means of cells gain little.
            centred = figures(cells, found.assignment.numpy().ravel())[0]
            assert 0.95 * row["relative_error"] < centred <= 1.001 * row["relative_error"]


@pytest.mark.parametrize("clip", FEATURES)
def test_all_that_a_budget_of_everything_loses_is_the_corner(result, clip):
    """The four cells at the top left are one token at every threshold up to 1: rules 1.2 and 2.3 (docs/fidelity.md)."""
    features = golden(clip)
    found = merge(torch.from_numpy(features), 0.999999, 0.0)
    corner = found.assignment.reshape(-1, 14, 14)[:, :2, :2].flatten(1)
    assert (corner == corner[:, :1]).all()
    cells = features.transpose(0, 2, 3, 1).copy()
    given = cells.copy()
    given[:, :2, :2] = cells[:, :2, :2].mean((1, 2), keepdims=True)
    [row] = rows_of(result, source="golden", clip=clip, method="sttm-budget", budget=1.0)
    assert row["relative_error"] == pytest.approx(compared(cells.reshape(-1, 16), given.reshape(-1, 16))[0], rel=0.02)


def test_the_result_file_is_whole_and_small(result):
    assert RESULT.stat().st_size < 500_000
    for row in result["rows"]:
        assert row["kept"] <= row["wanted"]
        assert row["error_of_frames"] == sorted(row["error_of_frames"])
        assert row["method"] in TITLES
    for name, source in result["sources"].items():
        for clip in source["clips"]:
            kinds = {row["method"] for row in rows_of(result, source=name, clip=clip, budget=0.5)}
            assert kinds == set(TITLES) - {"sttm-published"}


def test_the_calibrated_threshold_is_that_of_the_other_clips(result):
    lines = {row["clip"]: row["errors"] for row in result["lines"] if (row["source"], row["budget"]) == ("golden", 0.3)}
    mean = dict(zip(result["spatial_thresholds"], np.mean([lines["bikes"], lines["carphone"]], axis=0), strict=True))
    [row] = rows_of(result, source="golden", clip="bunny", method="sttm-calibrated", budget=0.3)
    assert row["given"] == min(mean, key=lambda given: (mean[given], -given))
    assert row["relative_error"] == lines["bunny"][result["spatial_thresholds"].index(row["given"])]


@pytest.mark.parametrize("page", ["docs/fidelity.md", "bench/README.md"])
def test_the_documents_have_the_tables_of_the_result(result, page):
    text = (helpers_rooms.ROOT / page).read_text(encoding="utf-8")
    found = fidelity_table.tables(result)
    first = "vgg-resized-1fps relative_error"
    wanted = found if page.startswith("docs") else {first: found[first]}
    assert {name for name, table in wanted.items() if table not in text} == set()


def small_clip(seed=0, frames=8):
    noise = np.random.default_rng(seed).standard_normal((frames, 4, 4, 6)).astype(np.float32)
    return Clip(Source("made", "made", False, "noise"), f"clip{seed}", np.cumsum(noise, 0))


def test_rows_of_a_clip_have_gaps_where_a_count_cannot_be_reached():
    rows = fidelity.compare(small_clip(), [0.05, 0.5], lambda *_: None)
    low = {row["method"] for row in rows if row["budget"] == 0.05}
    assert low == {"tome-clip"}
    half = {row["method"]: row for row in rows if row["budget"] == 0.5}
    assert set(half) == {*PEERS, "sttm-budget", "sttm-threshold"}
    assert all(row["kept"] <= row["wanted"] == 64 for row in half.values())
    happened = [row for row in rows if row["budget"] is None]
    assert {tuple(row["thresholds"]) for row in happened} == set(published_pairs())
    with pytest.raises(OutOfReach, match="too few for a budget"):
        sttm(small_clip().features, 0.05, "budget")
    assert published(0.5) != published(0.3)


def test_how_alike_cells_are(result):
    still = np.repeat(np.random.default_rng(0).standard_normal((1, 3, 4, 5)), 3, axis=0)
    assert fidelity.alike(still)[0] == 1.0
    assert fidelity.alike(np.broadcast_to(still[:, :, :1], still.shape))[1] == 1.0
    assert fidelity.alike(still[:1])[0] == 1.0
    for clip in FEATURES:
        cells = golden(clip).transpose(0, 2, 3, 1)
        cells /= np.sqrt((cells**2).sum(-1, keepdims=True))
        expected = [
            np.median((cells[1:] * cells[:-1]).sum(-1)),
            np.median((cells[:, :, 1:] * cells[:, :, :-1]).sum(-1)),
        ]
        assert result["sources"]["golden"]["alike"][clip] == pytest.approx(expected, abs=2e-3)


def test_the_rule_merges_within_frames_only_where_neighbours_are_more_alike():
    lines = [
        {"source": "s", "clip": "still", "budget": 0.3, "errors": [0.4, 0.2]},
        {"source": "s", "clip": "moves", "budget": 0.3, "errors": [0.3, 0.6]},
    ]
    sources = {"s": {"alike": {"still": [0.9, 0.5], "moves": [0.5, 0.9]}}}
    made = {"spatial_thresholds": [0.8, 2.0], "sources": sources, "lines": lines}
    # Each is calibrated on the other, which wants the opposite; the rule chooses as the oracle does.
    assert fidelity_rule.gains(made, "s", 0.3) == (0.5, 0.5)
    sources["s"]["alike"]["moves"] = [0.9, 0.5]
    assert fidelity_rule.gains(made, "s", 0.3) == (0.5, 0.25)


def test_one_clip_alone_has_nothing_to_be_calibrated_on():
    lines = fidelity.line(small_clip(), [0.5], lambda *_: None)
    assert [row["given"] for row in lines] == list(fidelity.SPATIAL)
    assert fidelity.calibrated(lines) == []
    both = lines + fidelity.line(small_clip(1), [0.5], lambda *_: None)
    assert [row["clip"] for row in fidelity.calibrated(both)] == ["clip0", "clip1"]


def test_a_users_features_are_compared_drawn_and_put_in_tables(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib comes with sttm-export[bench]")
    paths = []
    for seed in (0, 1):
        paths.append(tmp_path / f"clip{seed}.npz")
        np.savez(paths[-1], features=small_clip(seed).features.transpose(0, 3, 1, 2))
    output, picture = tmp_path / "out" / "r.json", tmp_path / "r.png"
    command = ["--features", *map(str, paths), "--budgets", "0.3", "0.5", "--output", str(output)]
    assert fidelity.main(command) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert fidelity.main(command) == 0
    again = json.loads(output.read_text(encoding="utf-8"))
    assert again["rows"] == first["rows"]
    assert again["sources"]["files"]["clips"] == {"clip0": [8, 4, 4, 6], "clip1": [8, 4, 4, 6]}
    assert fidelity_plot.main([str(output), str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "ToMe, per frame" in fidelity_table.tables(again)["sources"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--features", "none.npz"], "none.npz is not a features file"),
        (["--budgets", "1.5"], "--budgets 1.5 is no share"),
        (["--frames", "0"], "--frames 0 is not possible"),
        (["--fps", "0"], "--fps 0 is not possible"),
        (["--bundle", "x"], "--bundle and --video belong together"),
        (["--bundle", "x", "--video", "v.mp4", "--features", "f.npz"], "give one of the two"),
    ],
)
def test_bad_input_is_one_sentence(capsys, arguments, words):
    assert fidelity.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_features_must_be_a_clip(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, features=np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match=r"has `features` float64 \[2, 3, 4\]; give an .npz"):
        read_features(path)
    np.savez(path, features=np.full((1, 1, 2, 2), np.nan))
    with pytest.raises(UserError, match="not finite"):
        read_features(path)
    assert [clip.name for clip in files.golden()] == ["bikes", "bunny", "carphone"]


def test_nothing_to_draw_is_told(tmp_path, capsys):
    assert fidelity_plot.main([str(tmp_path / "no.json"), "x.png"]) == 2
    assert "There is no result file" in capsys.readouterr().err


def test_a_bundle_gives_what_its_merger_reads(tiny_bundle, tmp_path):
    from sttm_export.runtime.sample_clips import find_sample_clip

    output = tmp_path / "r.json"
    video = str(find_sample_clip("carphone"))
    command = ["--bundle", str(tiny_bundle), "--video", video, "--budgets", "0.5", "--output", str(output)]
    assert fidelity.main(command) == 0
    source = json.loads(output.read_text(encoding="utf-8"))["sources"]["bundle"]
    assert not source["trained"]
    assert "projected features" in source["what"]
    assert "random weights, seed 7" in source["what"]


def test_encoded_videos_are_kept(tmp_path):
    from sttm_export.runtime.sample_clips import find_sample_clip

    calls = []

    def encoder():
        calls.append("made")
        return lambda frames: np.stack([frame[:4, :4].astype(np.float32) for frame in frames])

    source, paths = Source("s", "s", False, "s"), {"carphone": find_sample_clip("carphone")}
    [first] = videos.clips(source, paths, 4, None, encoder, tmp_path)
    [again] = videos.clips(source, paths, 4, None, encoder, tmp_path)
    assert calls == ["made"]
    np.testing.assert_array_equal(first.features, again.features)
    [sparse] = videos.clips(source, paths, 32, 1.0, encoder, None)
    assert sparse.source.name == "s-1fps"
    assert len(sparse.features) == 5
