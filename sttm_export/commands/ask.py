"""`sttm-export ask BUNDLE --video FILE "question" …`."""

from __future__ import annotations

import argparse

from sttm_export.commands.values import path_value
from sttm_export.commands.viewing import add_viewing, open_to_view, viewing_values

HELP = "Ask a bundle with a language model about a video: it is read once, each question pays for its own tokens."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote, exported with --decoder")
    parser.add_argument(
        "question", nargs="*", help="one or several; without any, lines of standard input up to an empty one"
    )
    parser.add_argument("--video", type=path_value, metavar="FILE", help="video to ask about; or --kv")
    parser.add_argument(
        "--kv", type=path_value, metavar="FILE", help="a video that was read earlier; its frames are not needed"
    )
    parser.add_argument(
        "--save-kv", type=path_value, metavar="FILE", help="write keys and values of the video, for --kv"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens of an answer at most (default: 128)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="F", help="default: 0, the likeliest token each time"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="draw from so many tokens (default: all)")
    parser.add_argument("--top-p", type=float, metavar="F", help="draw from the likeliest of this share (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the draw; repeats an answer (default: 0)")
    add_viewing(parser)


def execute(options: argparse.Namespace) -> None:
    """Look, read, answer."""
    from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
    from sttm_export.terminal import Steps
    from sttm_export.workflows.ask import ask_bundle
    from sttm_export.workflows.ask_request import Request, check_request, take_questions

    request = Request(
        video=options.video,
        kv=options.kv,
        save_kv=options.save_kv,
        most=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        **viewing_values(options),
    )
    check_request(request)
    questions = take_questions(options.question, request)
    steps = Steps(request.steps)
    with steps.step("Check the bundle"):
        bundle = open_to_view(options, (EMBEDDINGS, TOKENIZER))
    steps.warn(bundle.rejected())
    ask_bundle(bundle, request, questions, steps)
