"""Multimodal C4 (Zhu et al. 2023): JSON lines of sentences and of images, each image matched to a sentence; pictures are separate files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from mm1_ablate.config.data import Bounds
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.readers.image_index import check_pictures
from mm1_ablate.data.readers.json_lines import open_json_lines
from mm1_ablate.data.readers.open_files import are_tables, check_columns, columns_of, first_rows, found_files, kept_columns
from mm1_ablate.data.readers.rows import OBJECT, TEXT, Rows, is_blank, text_of
from mm1_ablate.data.sources._interleaved import InterleavedFiles, Page, joined

TEXTS, IMAGES = "text_list", "image_info"
WRONG_SHAPE = "no list of sentences or of images"


class Mmc4(InterleavedFiles):
    """A web page in each line. Pictures are found by `image_name`, or by `raw_url` where `images_by` says url or url_sha256."""

    type: Literal["mmc4"] = "mmc4"
    image_place: Literal["before", "after"] = "before"
    """Position of an image: before or after the sentence that it matches."""
    similarity: Bounds = Bounds()
    """CLIP similarity (`matched_sim`) of the images that are kept; the sentences all stay."""

    def check(self) -> None:
        files = found_files(self.files)
        if are_tables(files):
            raise SettingError("files", f"'{files[0].name}' is parquet; MMC4 is JSON lines")
        columns = columns_of(files)
        check_columns(columns, {"files": (TEXTS, (f"lists of {TEXT}",))})
        check_columns(columns, kept_columns(self.keep))
        if self._looks_up:
            check_columns(columns, {"files": (IMAGES, (f"lists of {OBJECT}",))})
            if not self.image_files:
                message = (
                    "the documents only reference their pictures; declare where the files are, or train on the text alone (images: false)"
                )
                raise SettingError("image_files", message)
            check_pictures(self.image_files)

    def needed(self) -> dict[str, tuple[str, ...]]:
        return {TEXTS: (f"lists of {TEXT}",), **({IMAGES: (f"lists of {OBJECT}",)} if self._looks_up else {})}

    def first_rows(self, most: int) -> list[dict[str, Any]]:
        return first_rows(found_files(self.files), [], most)

    def places_of(self, row: Mapping[str, Any]) -> list[str | None]:
        sentences, infos = row.get(TEXTS), row.get(IMAGES)
        if not isinstance(sentences, list) or not isinstance(infos, list):
            return []
        matched = set()
        for info in infos:
            with suppress(Unreadable):
                matched.add(self.sentence_of(info, len(sentences), ""))
        places: list[str | None] = []
        for number, sentence in enumerate(sentences):
            image = [None] if number in matched else []
            text = [sentence] if isinstance(sentence, str) and sentence.strip() else []
            places += [*image, *text] if self.image_place == "before" else [*text, *image]
        return places

    def sentence_of(self, info: Any, sentences: int, what: str) -> int | None:
        """The number of the sentence that an image matches; None if it is not similar enough (or too similar) to be kept."""
        place = info.get("matched_text_index") if isinstance(info, Mapping) else None
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < sentences:
            raise Unreadable("image that matches no sentence", what)
        if not self.similarity.binds:
            return place
        similarity = info.get("matched_sim")
        if not isinstance(similarity, int | float) or isinstance(similarity, bool):
            raise Unreadable("image without similarity", what)
        return place if similarity in self.similarity else None

    def pages(self, images: bool, report: Any = None) -> Mmc4Pages:
        return Mmc4Pages(self, images, report)


class Mmc4Pages:
    """The pages by index."""

    def __init__(self, settings: Mmc4, images: bool, report: Any = None) -> None:
        self.settings = settings
        self.rows: Rows = open_json_lines(found_files(settings.files), report)
        self._pictures = settings.picture_files(report) if images else None
        self._with_images = images
        self.losses = [*self.rows.losses, *(self._pictures.losses if self._pictures else ())]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Page:
        row, what = self.rows[index], self.rows.place(index)
        sentences, named_images = row.get(TEXTS), row.get(IMAGES, [])
        infos = named_images if self._with_images else []
        if not isinstance(sentences, list) or not isinstance(infos, list):
            raise Unreadable(WRONG_SHAPE, what)
        damage: list[Unreadable] = []
        beside: dict[int, list[Image]] = {}
        for number, info in enumerate(infos):
            named = f"image {number + 1} of {what}"
            try:
                if (sentence := self.settings.sentence_of(info, len(sentences), named)) is not None:
                    beside.setdefault(sentence, []).append(self._image(info, named))
            except Unreadable as error:
                damage.append(error)
        parts: list[str | Image] = []
        for number, sentence in enumerate(sentences):
            text = [] if is_blank(sentence) else [text_of(sentence, what)]
            images = beside.get(number, [])
            parts += [*images, *text] if self.settings.image_place == "before" else [*text, *images]
        columns = {name: row.get(name) for name in self.settings.keep.columns}
        pictures = len(named_images) if isinstance(named_images, list) else 0
        return Page(self.rows.key(index), self._runs(parts), columns, tuple(damage), pictures)

    def _image(self, info: Mapping[str, Any], what: str) -> Image:
        name = info.get("raw_url" if self.settings.images_by.startswith("url") else "image_name")
        if not isinstance(name, str) or self._pictures is None:
            raise Unreadable("missing image", what)
        return self._pictures.find(name, f"{name}, {what}")

    @staticmethod
    def _runs(parts: list[str | Image]) -> tuple[str | Image, ...]:
        """Sentences that stand side by side as one text."""
        return joined(tuple(parts), " ")
