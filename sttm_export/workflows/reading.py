"""A language model that has read a video: looked at just now, or taken up from a file of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.manifest import MANIFEST
from sttm_export.bundle.records import sha256_of
from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.files.whole import written_whole
from sttm_export.language.embeddings import read_embeddings
from sttm_export.language.kept import About, KeptVideo, pack
from sttm_export.language.model import LanguageModel, Watched
from sttm_export.language.prompt import video_ids
from sttm_export.language.room import room_behind
from sttm_export.language.rows import Floats
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.pipeline.loader import Loader
from sttm_export.pipeline.speaking import load_language_model
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.video import Video
from sttm_export.system import size_text
from sttm_export.terminal import Steps
from sttm_export.workflows.viewing import Viewing, decode, encode, merge, say_merged

Check = Callable[[int], None]
"""Called with the slots behind the video as soon as they are known; refuses questions that have no room."""


@dataclass(frozen=True)
class Reading:
    """A language model that has read a video."""

    model: LanguageModel
    watched: Watched
    about: About
    room: int  # slots for a question and its answer
    seconds: float | None  # that it took to decode, encode and read the video; None where a file had it


class Reader:
    """Loads the language model of a bundle and shows it a video.

    Args:
        loader: of a bundle with a decoder.
        steps: told of the progress.
        stack: closes the sessions, which stay open for all questions.

    Raises:
        UserError: the tokenizer or the table of embeddings is missing or damaged.
    """

    def __init__(self, loader: Loader, steps: Steps, stack: ExitStack) -> None:
        self._loader, self._steps, self._stack = loader, steps, stack
        self._bundle, self._recipe = loader.bundle, loader.bundle.manifest.recipe
        self.tokenizer = read_tokenizer(self._bundle.path / TOKENIZER, self._recipe.decoder.vocabulary)
        self._table = read_embeddings(self._bundle.path / EMBEDDINGS, self._recipe)

    def look(self, path: Path, viewing: Viewing, check: Check) -> Reading:
        """Look at a video, and read it with the text around it that every question shares.

        Raises:
            UserError: unreadable video, questions without room, or graphs that cannot be loaded or run.
        """
        bundle, steps, merged = self._bundle, self._steps, list[MergedTokens]()
        video = decode(bundle, path, viewing, steps)
        before, behind = video_ids(self.tokenizer, self._recipe.prompt, video.timestamps.tolist(), video.info.duration)
        frames = -(-len(video.frames) // bundle.model.frames_per_step)
        room = room_behind(self._recipe, frames, len(before) + len(behind))
        check(room)
        features = encode(self._loader, video, steps)

        def merging(hidden: Floats) -> MergedTokens:
            # Loaded for this moment only, as the encoder was: what answers needs the memory.
            merged.append(merge(self._loader, viewing, hidden))
            return merged[0]

        model = self._load(merging)
        with steps.step("Read the video", steady=True) as advance:
            watched = model.watch(before, features.astype("float32"), behind, advance)
        say_merged(merged[0], bundle, steps)
        steps.say(f"{merged[0].num_tokens} of {merged[0].assignment.size} tokens of the video are kept")
        about = self._about(path, video, watched, before, behind)
        titles = ("Decode the video", "Encode the frames", "Read the video")
        return Reading(model, watched, about, room, sum(steps.seconds[title] for title in titles))

    def take_up(self, path: Path, check: Check) -> Reading:
        """Go on with a video whose keys and values are in a file.

        Raises:
            UserError: a file that is damaged or of another bundle, or as `look`.
        """
        kept = KeptVideo(path, self._recipe, self._manifest_sum())
        about = kept.about
        room = room_behind(self._recipe, about.frames, len(about.before) + len(about.behind))
        check(room)
        # Nothing merges any more.
        model = self._load(_no_merging)
        with self._steps.step("Take up the video"):
            watched, state = kept.read()
            model.restore(watched, state)
        self._steps.say(f"{about.video}: {about.tokens} tokens of {about.frames * self._recipe.merge.cells} were kept")
        return Reading(model, watched, about, room, None)

    def save(self, reading: Reading, path: Path) -> None:
        """Write keys and values of the video, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        with self._steps.step("Write keys and values"), written_whole(path) as (file,):
            packed = pack(reading.about, self._recipe, reading.watched, reading.model.state())
            file.write(packed)
        self._steps.say(f"{path}: {size_text(len(packed))}; ask again with --kv, without the video")

    def _load(self, merging: Callable[[Floats], MergedTokens]) -> LanguageModel:
        with self._steps.step("Load the language model") as advance:
            return load_language_model(self._loader, self._stack, self._table, merging, advance)

    def _about(self, path: Path, video: Video, watched: Watched, before: list[int], behind: list[int]) -> About:
        return About.of(
            bundle=self._manifest_sum(),
            model=self._bundle.model.name,
            video=path.name,
            duration=video.info.duration,
            timestamps=tuple(video.timestamps.tolist()),
            before=tuple(before),
            behind=tuple(behind),
            frames=watched.frames,
            tokens=len(watched.cells),
        )

    def _manifest_sum(self) -> str:
        return sha256_of(self._bundle.path / MANIFEST)


def _no_merging(_hidden: Floats) -> MergedTokens:
    raise AssertionError("a video that was read merges no more")
