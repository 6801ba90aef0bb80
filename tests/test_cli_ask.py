"""`sttm-export ask` end to end on tiny bundles: each further question is answered as if it were the first."""

import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_ask import answers, ask, export_asked, refusal
from helpers_language import tiny_decoder, tiny_prompt
from helpers_qwen2_vl import model_of, tiny_qwen
from helpers_runtime import write_video

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.families.weights import open_weights
from sttm_export.language.checkpoint import parameter_shapes
from sttm_export.language.positions import Prompt
from sttm_export.language.prompt import question_ids, video_ids
from sttm_export.language.reference import Merging, ReferenceDecoder
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.pipeline import loader
from sttm_export.pipeline import speaking as asking
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import published_sampler, read_video
from sttm_export.system import MemoryFacts
from sttm_export.workflows import ask_memory, viewing

QUESTIONS = ("What is this?", "And that?", "Is it été 日本?")
SHORT = ("--max-new-tokens", "12")


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """Tokens merge at the input of layer 1."""
    return export_asked(tmp_path_factory.mktemp("layered"), layer=1)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Tokens merge before the first layer; float16."""
    return export_asked(tmp_path_factory.mktemp("merged"), layer=0, precision="fp16")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames=8, rate=2)


@pytest.fixture(scope="module")
def kept(layered, video, tmp_path_factory):
    """Keys and values of the video."""
    path = tmp_path_factory.mktemp("kept") / "video.kv"
    answers(layered, "--video", video, "--save-kv", path, "One?", *SHORT)
    return path


def loads(monkeypatch):
    """Names of the graphs that are loaded from now on."""
    names, real = [], loader.Loader._session
    monkeypatch.setattr(
        loader.Loader, "_session", lambda self, name, *rest: names.append(name) or real(self, name, *rest)
    )
    return names


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Three positions a token, two frames a step; tokens merge at the input of layer 1."""
    model = replace(model_of(tiny_qwen(rows=6)), decoder=tiny_decoder(vocabulary=400, mrope_section=(2, 2, 2)))
    # A solved threshold may lie below 0, where the published code takes a given one for none at all.
    more = ("--policy", "threshold")
    return export_asked(tmp_path_factory.mktemp("qwen"), layer=1, model=replace(model, prompt=tiny_prompt()), more=more)


@pytest.mark.parametrize("name", ["layered", "merged", "qwen"])
def test_questions_with_and_without_reuse(request, name, video, tmp_path):
    bundle = request.getfixturevalue(name)
    one_by_one = [answers(bundle, "--video", video, question, *SHORT) for question in QUESTIONS]
    assert len(set(one_by_one)) == len(QUESTIONS), "answers that are all alike would show nothing"
    together = answers(bundle, "--video", video, "--save-kv", tmp_path / "a.kv", *SHORT, *QUESTIONS)
    assert together == "".join(one_by_one)
    assert answers(bundle, *QUESTIONS, "--kv", tmp_path / "a.kv", *SHORT) == together
    assert answers(bundle, *reversed(QUESTIONS), "--kv", tmp_path / "a.kv", *SHORT) == "".join(reversed(one_by_one))


@pytest.mark.parametrize("name", ["layered", "qwen"])
def test_the_answer_is_that_of_the_published_layers(request, name, video, monkeypatch):
    """Prompt, merging and answer by `transformers`' own layers, from the features that the encoder made."""
    from sttm_export.workflows import reading

    bundle, seen = request.getfixturevalue(name), {}
    for step in ("encode", "merge"):
        real = getattr(reading, step)
        monkeypatch.setattr(reading, step, lambda *given, s=step, r=real: seen.setdefault(s, r(*given)))
    text = answers(bundle, "--video", video, "And that?", *SHORT)
    recipe, tokenizer = open_bundle(bundle).manifest.recipe, read_tokenizer(bundle / "tokenizer.json", 400)
    frames, features = read_video(video, published_sampler(recipe.model.sampling.fps, 4)), seen["encode"]
    before, behind = video_ids(tokenizer, recipe.prompt, frames.timestamps, 4.0)
    behind += question_ids(tokenizer, recipe.prompt, "And that?")
    state = open_weights(recipe.model, shapes := parameter_shapes(recipe.decoder), None, 7).read(shapes)
    oracle = ReferenceDecoder(recipe.decoder, {name: tensor.float() for name, tensor in state.items()})
    prompt = Prompt(len(before), *features.shape[:1], *vars(recipe.model.grid).values(), len(behind))
    merging = Merging(1, recipe.merge, tuple(seen["merge"].thresholds.tolist()), recipe.model.merging.positions)
    flat = torch.from_numpy(features.reshape(-1, 48).astype(np.float32))
    found = oracle.prefill(np.array(before), flat, np.array(behind), prompt, merging)
    assert len(found.tokens) == seen["merge"].num_tokens
    made, logits = [], found.logits
    for count in range(12):
        made.append(int(logits.argmax()))
        logits = oracle.step(made[-1], found.position + count)
    assert "".join(tokenizer.decode(made)) + "\n" == text


def test_what_is_said_about_an_answer(layered, video):
    code, out, err = ask(layered, "What?", "--video", video, "Really?", *SHORT)
    assert code == 0
    assert out.count("\n") >= 2
    assert "random weights, seed 7: the text proves the graphs and means nothing" in err
    assert "question: What?\n" in err
    lines = re.findall(
        r"12 tokens, cut off at the limit; the first after [\d.]+ m?s, or [\d.]+ m?s with reading the video; "
        r"[\d.]+ tokens a second; (\d+) of 36 tokens of the video kept",
        err,
    )
    assert len(lines) == 2, err
    assert 0 < int(lines[0]) <= 18
    assert "tokens of the video are kept" in err


def test_a_video_that_was_kept_needs_neither_encoder_nor_merger(layered, kept, monkeypatch):
    names = loads(monkeypatch)
    code, _, err = ask(layered, "--kv", kept, "What?", *SHORT)
    assert code == 0
    assert names == ["decoder_00_00", "decoder_01_01", "decoder_02_02", "language_head"]
    assert "[3/3] Take up the video" in err
    assert "clip.mp4: " in err
    assert "with reading the video" not in err


def test_encoder_and_merger_are_let_go_of(layered, video, monkeypatch):
    """What answers is loaded when the encoder is gone, and the merger for a moment only."""
    events, real = [], loader.OrtSession

    class Watched(real):
        def __init__(self, path, graph, **options):
            super().__init__(path, graph, **options)
            events.append(f"+{graph.name}")

        def __del__(self):
            events.append(f"-{self.graph.name}")

    monkeypatch.setattr(loader, "OrtSession", Watched)
    answers(layered, "--video", video, "What?", *SHORT)
    assert events[:2] == ["+vision_encoder", "-vision_encoder"]
    assert events[2:6] == ["+decoder_00_00", "+decoder_01_01", "+decoder_02_02", "+language_head"]
    assert events[6:8] == ["+token_merger", "-token_merger"]


def test_a_real_clip(merged):
    code, out, err = ask(merged, "--video", find_sample_clip("carphone"), "--fps", "0.5", "What happens?", *SHORT)
    assert (code, bool(out.strip())) == (0, True)
    assert "frames, at most 4 a clip" in err


def test_an_answer_that_is_drawn_is_repeated_by_its_seed(layered, kept):
    drawn = ("--kv", kept, "--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", *SHORT)
    first = answers(layered, "What?", *drawn, "--seed", "3")
    assert answers(layered, "Anything else?", "What?", *drawn, "--seed", "3").endswith(first)
    assert answers(layered, "What?", *drawn, "--seed", "4") != first
    assert answers(layered, "What?", *drawn) == answers(layered, "What?", *drawn, "--seed", "0")


def test_a_token_that_ends_an_answer(layered, kept, monkeypatch):
    tokenizer = read_tokenizer(layered / "tokenizer.json", 400)
    (stop,) = tokenizer.encode("<|im_end|>", special=True)
    script = iter([*tokenizer.encode("yes", special=False), stop])
    monkeypatch.setattr(asking, "greedy", lambda logits: next(script))
    code, out, err = ask(layered, "--kv", kept, "What?")
    assert (code, out) == (0, "yes\n")
    assert "3 tokens, ended by itself" in err


def test_questions_are_lines_of_standard_input(layered, kept, monkeypatch):
    expected = answers(layered, *QUESTIONS[:2], "--kv", kept, *SHORT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTIONS[0]}\n  {QUESTIONS[1]} \n\nnot read\n"))
    assert answers(layered, "--kv", kept, *SHORT) == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_questions_are_asked_for_on_a_terminal(layered, kept, monkeypatch):
    """A question that has no room is refused, and the next one is answered."""
    expected = answers(layered, QUESTIONS[0], "--kv", kept, *SHORT)
    monkeypatch.setattr(sys, "stdin", Terminal(f"{'long ' * 100}\n{QUESTIONS[0]}\n"))
    code, out, err = ask(layered, "--kv", kept, *SHORT)
    assert (code, out) == (0, expected)
    assert err.count("question (empty to end): ") == 3
    assert "The question takes" in err


@pytest.mark.parametrize("text", ["", "\n", "  \n What?\n"])
def test_no_question(layered, video, kept, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert "There is no question" in refusal(layered, "--video", video)
    monkeypatch.setattr(sys, "stdin", None)
    assert "There is no question" in refusal(layered, "--kv", kept)


def test_a_video_may_be_kept_without_a_question(layered, video, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert answers(layered, "--video", video, "--save-kv", tmp_path / "a.kv") == ""
    assert (tmp_path / "a.kv").read_bytes() == kept.read_bytes()


def test_bytes_that_are_no_text(layered, kept, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff?\n"), "utf-8"))
    assert "Standard input is no valid UTF-8 text" in refusal(layered, "--kv", kept)
    assert "The question is no valid UTF-8 text" in refusal(layered, "--kv", kept, "\udcff?")
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 70_000))
    assert "has more than 65536 characters" in refusal(layered, "--kv", kept)


def test_room_is_counted_to_the_last_slot(layered, video, kept, monkeypatch):
    """What is offered is taken, one more is refused; and without a wish the answer is as long as there is room."""
    monkeypatch.setattr(asking, "greedy", lambda _logits: 65)
    said = refusal(layered, "--kv", kept, "What?", "--max-new-tokens", "1000")
    most = int(re.search(r"give --max-new-tokens (\d+) or less", said)[1])
    assert "and an answer of 1000 do not fit into the " in said
    assert refusal(layered, "--video", video, "What?", "--max-new-tokens", "1000") == said
    assert f"{most} tokens, cut off" in ask(layered, "--kv", kept, "What?", "--max-new-tokens", most)[2]
    assert f"give --max-new-tokens {most} or less" in refusal(
        layered, "--kv", kept, "What?", "--max-new-tokens", most + 1
    )
    code, _, err = ask(layered, "--kv", kept, "What?" + "?" * (most - 3))
    assert code == 0
    assert "there is room for an answer of 3 tokens\n" in err
    assert "3 tokens, cut off at the limit" in err
    said = refusal(layered, "--kv", kept, "What?" + "?" * most)
    tokens, slots = map(int, re.search(r"takes (\d+) tokens and there are (\d+) slots behind the video", said).groups())
    assert tokens == slots + 1


def test_a_question_without_room_is_refused_before_the_video_is_encoded(layered, video, monkeypatch):
    names = loads(monkeypatch)
    said = refusal(layered, "--video", video, "What?", "x" * 500)
    assert re.search(r"The question takes \d{3} tokens and there are \d+ slots behind the video; ask in fewer", said)
    assert names == []


def test_memory_is_estimated_before_anything_is_loaded(layered, video, kept, monkeypatch):
    names = loads(monkeypatch)
    bundle = open_bundle(layered)
    weights = sum((layered / f"decoder_0{n}_0{n}.onnx.data").stat().st_size for n in range(3))
    need = ask_memory.estimate_memory(bundle, video=False)
    assert need > weights + 2 * sum(t.nbytes for graph in bundle.manifest.graphs for t in graph.kept)
    monkeypatch.setattr(ask_memory, "read_memory", lambda: MemoryFacts(available=need - 1, swap_free=0))
    for source in (("--video", video), ("--kv", kept)):
        assert "needs at least" in refusal(layered, *source, "What?")
    assert names == []
    monkeypatch.setattr(ask_memory, "read_memory", lambda: MemoryFacts(available=need))
    assert answers(layered, "--kv", kept, "What?", *SHORT)


def test_float16_weights_double_as_they_are_loaded(merged):
    bundle = open_bundle(merged)
    graphs = [name for name in merged.glob("*.onnx*") if name.name.startswith(("decoder", "language"))]
    state = sum(tensor.nbytes for graph in bundle.manifest.graphs for tensor in graph.kept)
    assert ask_memory.estimate_memory(bundle, video=False) == 2 * sum(p.stat().st_size for p in graphs) + 2 * state


def test_a_kept_video_of_another_bundle(layered, merged, kept, tmp_path):
    assert "is of another bundle" in refusal(merged, "--kv", kept, "What?")
    (tmp_path / "cut.kv").write_bytes(kept.read_bytes()[:-1])
    assert "is damaged or no safetensors file" in refusal(layered, "--kv", tmp_path / "cut.kv", "What?")


def test_ctrl_c_ends_cleanly(layered, video, kept, tmp_path, monkeypatch):
    calls = []

    def interrupted(logits):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 65

    monkeypatch.setattr(asking, "greedy", interrupted)
    code, out, err = ask(layered, "--kv", kept, "What?")
    assert code == 130
    assert out.endswith("\n")
    assert err.splitlines()[-1] == "sttm-export: interrupted; nothing was left behind."


def test_a_disk_that_fills_up(layered, video, tmp_path, monkeypatch):
    from sttm_export.workflows import reading

    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reading, "pack", full)
    code, out, err = ask(layered, "--video", video, "--save-kv", tmp_path / "a.kv", "What?")
    assert (code, out) == (2, "")
    assert "a.kv: No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_control_characters_do_not_reach_a_terminal(layered, kept, monkeypatch):
    tokenizer = read_tokenizer(layered / "tokenizer.json", 400)
    ids = tokenizer.encode("a\x1b[2J\n\tb", special=False)

    def scripted():
        script = iter(ids)
        monkeypatch.setattr(asking, "greedy", lambda logits: next(script))
        return ("--kv", kept, "What?", "--max-new-tokens", len(ids))

    assert answers(layered, *scripted()) == "a\x1b[2J\n\tb\n"
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["ask", str(layered), *map(str, scripted())]) == 0
    assert out.getvalue() == "a\ufffd[2J\n\tb\n"


def test_text_comes_as_it_is_made(layered, kept, monkeypatch):
    """Each token's text is on its way before the next one is computed."""
    seen, ids = [], iter(range(65, 91))

    class Flushing(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    out = Flushing()

    def choose(_logits):
        seen.append(out.flushed)
        return next(ids)

    monkeypatch.setattr(asking, "greedy", choose)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["ask", str(layered), "--kv", str(kept), "What?", "--max-new-tokens", "4"]) == 0
    assert [len(text) for text in seen] == [0, 1, 2, 3]


def test_a_bundle_without_a_language_model(tiny_bundle, video):
    assert "has no language model to ask; export it again with --decoder" in refusal(
        tiny_bundle, "--video", video, "What?"
    )


def test_in_a_process_of_its_own(layered, kept):
    """Without PyTorch in it, and with what is read at the end of a pipe."""
    code = "import sys\nfrom sttm_export.cli import main\nend = main(sys.argv[1:])\n"
    code += "sys.exit(f'loaded torch' if 'torch' in sys.modules else end)"
    command = [sys.executable, "-c", code, "ask", str(layered), "--kv", str(kept), *SHORT]
    done = subprocess.run(command, input="What?\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == answers(layered, "--kv", kept, "What?", *SHORT)


def test_run_gives_what_merges_there(layered, video, tmp_path, capsys, monkeypatch):
    out = tmp_path / "tokens.npz"
    names = loads(monkeypatch)
    assert main(["run", str(layered), "--video", str(video), "--output", str(out)]) == 0
    err = capsys.readouterr().err
    assert "the tokens are hidden states at the input of decoder layer 1, not embeddings" in err
    assert names == ["vision_encoder", "token_merger", "decoder_00_00"]
    found = np.load(out)
    assert found["tokens"].dtype == np.float32
    seen = []
    real = viewing.merge
    monkeypatch.setattr("sttm_export.workflows.reading.merge", lambda *given: seen.append(real(*given)) or seen[0])
    answers(layered, "--video", video, "What?", *SHORT)
    # Rows of text behind the video share a last chunk with it, and nothing else.
    np.testing.assert_allclose(found["tokens"], seen[0].tokens, atol=1e-5)
    assert np.array_equal(found["token_box"], seen[0].token_box)


def test_run_before_the_first_layer_is_as_ever(merged, video, tmp_path, capsys):
    assert main(["run", str(merged), "--video", str(video), "--output", str(tmp_path / "a.npz")]) == 0
    assert "hidden states" not in capsys.readouterr().err


def test_a_rejected_bundle_says_so(layered, kept, monkeypatch):
    monkeypatch.setattr("sttm_export.bundle.opened.Bundle.rejected", lambda self: "a test")
    assert "this bundle was rejected when it was exported: a test" in ask(layered, "--kv", kept, "What?", *SHORT)[2]


def test_a_damaged_bundle_is_refused(layered, video, tmp_path):
    copy = shutil.copytree(layered, tmp_path / "copy")
    table = copy / "embeddings.npy"
    table.write_bytes(table.read_bytes()[:-1])
    assert "embeddings.npy" in refusal(copy, "--video", video, "What?")


def test_numbers_that_are_none(layered, kept, monkeypatch):
    """Logits without a number end the answer with a sentence."""
    from sttm_export.language import model

    nothing = lambda self, hidden: np.full(400, np.nan, np.float32)  # noqa: E731
    monkeypatch.setattr(model.LanguageModel, "_logits", nothing)
    code, _, err = ask(layered, "--kv", kept, "What?")
    assert code == 2
    assert "largest logit is nan" in err.splitlines()[-1]
