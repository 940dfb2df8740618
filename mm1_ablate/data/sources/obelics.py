"""OBELICS (Laurençon et al. 2023): parquet whose `images` and `texts` are lists of one length, with one of the two at each place.

Images are bytes, {bytes, path} as Hugging Face writes them, or urls or paths of pictures that lie beside (`image_files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.readers.image_index import ImagesBy, check_pictures
from mm1_ablate.data.readers.open_files import are_tables, check_columns, columns_of, first_rows, found_files, kept_columns
from mm1_ablate.data.readers.parquet import footer_of, open_parquet
from mm1_ablate.data.readers.rows import BYTES, NULL, OBJECT, TEXT, is_blank, text_of
from mm1_ablate.data.sources._interleaved import InterleavedFiles, Page
from mm1_ablate.data.sources.image_text_table import bytes_of

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES, TEXTS = "images", "texts"
WRONG_SHAPE = "images and texts do not take turns"


class Obelics(InterleavedFiles):
    """A web page in each row."""

    type: Literal["obelics"] = "obelics"
    images_by: ImagesBy = "url"
    """How a document's picture is looked up in `image_files`: url (from the JSON that img2dataset writes beside a picture in a tar),
    url_sha256 (pictures are named by the SHA-256 of their url), path or base_name."""

    def check(self) -> None:
        files = found_files(self.files)
        if not are_tables(files):
            raise SettingError("files", f"'{files[0].name}' is JSON lines; OBELICS is parquet")
        columns = columns_of(files)
        # Lists that are all empty have no kind.
        images, texts = (f"lists of {BYTES}", f"lists of {OBJECT}", f"lists of {TEXT}"), (f"lists of {TEXT}",)
        check_columns(columns, {"files": (IMAGES, images)})
        check_columns(columns, {"files": (TEXTS, texts), **kept_columns(self.keep)})
        # {bytes, path} of which no file has the bytes are names as well.
        only_names = columns[IMAGES] == images[-1] or (
            columns[IMAGES] == images[1] and all(IMAGES in footer.empty or not footer.rows for footer in map(footer_of, files))
        )
        if self._looks_up and only_names and not self.image_files:
            message = "the documents only reference their pictures; declare where the files are, or train on the text alone (images: false)"
            raise SettingError("image_files", message)
        if self._looks_up and self.image_files:
            check_pictures(self.image_files)

    def needed(self) -> dict[str, tuple[str, ...]]:
        images = {IMAGES: tuple(f"lists of {kind}" for kind in (BYTES, OBJECT, TEXT, NULL))} if self._looks_up else {}
        return {**images, TEXTS: (f"lists of {TEXT}", f"lists of {NULL}")}

    def warnings(self) -> list[SettingError]:
        inside = self._looks_up and self.image_files and columns_of(found_files(self.files))[IMAGES] == f"lists of {BYTES}"
        return [SettingError("image_files", "is not read: the documents contain their pictures")] if inside else []

    def first_rows(self, most: int) -> list[dict[str, Any]]:
        return first_rows(found_files(self.files), [TEXTS], most)

    def places_of(self, row: Mapping[str, Any]) -> list[str | None]:
        texts = row[TEXTS] if isinstance(row[TEXTS], list) else []
        return [text for text in texts if text is None or (isinstance(text, str) and text.strip())]

    def pages(self, images: bool, report: Any = None) -> ObelicsPages:
        return ObelicsPages(self, images, report)

    @property
    def _separator(self) -> str:
        return "\n\n"  # as between the paragraphs inside a text


class ObelicsPages:
    """The pages by index."""

    def __init__(self, settings: Obelics, images: bool, report: Any = None) -> None:
        from mm1_ablate.data.decoding import encoded_image  # late: PIL

        self._columns = tuple(settings.keep.columns)
        needed = [*([IMAGES] if images else []), TEXTS, *self._columns]
        self.rows = open_parquet(found_files(settings.files), list(dict.fromkeys(needed)), report)
        self._pictures = settings.picture_files(report) if images else None
        self._with_images = images
        self._encoded_image = encoded_image
        self.losses = [*self.rows.losses, *(self._pictures.losses if self._pictures else ())]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Page:
        what, key = self.rows.place(index), self.rows.key(index)
        values = self.rows.values(index, (TEXTS, *self._columns))
        texts = values[TEXTS]
        # A plan looks at the first file only: in another the columns may hold anything.
        images = getattr(self.rows.scalar(index, IMAGES), "values", None) if self._with_images else None
        if not isinstance(texts, list) or (self._with_images and (images is None or len(images) != len(texts))):
            raise Unreadable(WRONG_SHAPE, what)
        parts: list[str | Image] = []
        damage: list[Unreadable] = []
        for place, text in enumerate(texts):
            image = images[place] if images is not None else None
            if image is not None and image.is_valid == (text is not None):
                raise Unreadable(WRONG_SHAPE, what)
            if text is not None:
                if not is_blank(text):
                    parts.append(text_of(text, what))
            elif image is not None:
                try:
                    parts.append(self._image(image, f"{key}#{place}", f"image {place + 1} of {what}"))
                except Unreadable as error:
                    damage.append(error)
        columns = {name: values[name] for name in self._columns}
        return Page(key, tuple(parts), columns, tuple(damage), texts.count(None))

    def _image(self, value: pa.Scalar, key: str, what: str) -> Image:
        import pyarrow as pa

        name = None
        if isinstance(value, pa.StringScalar):
            name = value.as_py()
        elif (read := bytes_of(value)) is not None:
            return self._encoded_image(key, read, what)
        elif isinstance(value, pa.StructScalar) and "path" in value:
            name = value["path"].as_py()
        if not isinstance(name, str) or self._pictures is None:
            raise Unreadable("missing image", f"{name}, {what}" if name else what)
        return self._pictures.find(name, f"{name}, {what}")
