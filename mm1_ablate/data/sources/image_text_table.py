"""Captioned images from parquet: img2dataset's `output_format=parquet`, and Hugging Face's image columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from mm1_ablate.config.data import Source
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.files import DataFile, Files, digest_files
from mm1_ablate.data.lost_documents import Losses
from mm1_ablate.data.readers.open_files import are_tables, check_columns, columns_of, first_rows, first_values, found_files, kept_columns
from mm1_ablate.data.readers.parquet import ParquetRows, footer_of, open_parquet
from mm1_ablate.data.readers.quick_check import lost_tables
from mm1_ablate.data.readers.rows import BYTES, OBJECT, TEXT, texts_of
from mm1_ablate.data.sources._captions import caption_of, check_captions

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES = ("image", "jpg", "png", "webp")
"""What the image's column is called, unless settings say: Hugging Face's name, then img2dataset's, which is its encoding."""
CAPTIONS = ("caption", "txt", "text")
STATUS, SUCCESS, NOT_DOWNLOADED = "status", "success", ("failed_to_download", "failed_to_resize")
"""img2dataset keeps the rows of images that it could not download, without an image, and says so here in these words."""


class ImageTextTable(Source):
    """An image and its caption in each row."""

    type: Literal["image_text_table"] = "image_text_table"
    data_type: Literal["captioned", "synthetic_captioned"] = "captioned"
    """The data type of the mixture that this source provides."""
    files: Files
    """Patterns of the parquet files."""
    image: str | None = None
    """The column with the image: bytes, or {bytes, path}. None: the first there is of image, jpg, png, webp."""
    caption: str | None = None
    """The column with the caption. None: the first there is of caption, txt, text."""

    def open(self, seed: int = 0, name: str = "") -> OpenImageTextTable:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return OpenImageTextTable(self, name or self.type)

    def check(self) -> None:
        self.check_images()
        files = self._found()
        columns = columns_of(files)
        caption = self.columns(columns)[1]
        check_columns(columns, {"caption": (caption, (TEXT, BYTES))})
        check_captions("caption", f"column '{caption}'", first_values(files, caption))

    def check_images(self) -> None:
        """All of `check` but the captions."""
        files = self._found()
        columns = columns_of(files)
        image = self.columns(columns)[0]
        check_columns(columns, {"image": (image, (BYTES, OBJECT)), **kept_columns(self.keep)})
        if columns[image] == OBJECT and not any(footer.rows and image not in footer.empty for footer in map(footer_of, files)):
            what = f"column '{image}' holds only the paths of images, not their bytes"
            raise SettingError(
                "image", f"{what}; write the bytes into it as {{bytes, path}}, or pack the pictures into tars (type: webdataset)"
            )

    def losses(self) -> list[Losses]:
        return self.image_losses(TEXT, BYTES)

    def image_losses(self, *caption: str) -> list[Losses]:
        """What cannot be read, where captions come from elsewhere.

        Args:
            caption: kinds of what the column of captions may hold; None: it does not matter.
        """
        image, text = self.columns(columns_of(self._found()))
        kept = dict(kept_columns(self.keep).values())
        return lost_tables(self._found(), {image: (BYTES, OBJECT), **({text: caption} if caption else {}), **kept})

    def warnings(self) -> list[SettingError]:
        files = self._found()
        there = columns_of(files)
        found = []
        for value, place in first_values(files, STATUS) if STATUS in there else ():
            if value not in (None, SUCCESS, *NOT_DOWNLOADED):
                message = f"column '{STATUS}' holds '{value}' ({place}), which img2dataset does not write: it is ignored, all rows are read"
                found.append(SettingError("files", message))
                break
        for setting, names, kinds in (("image", IMAGES, (BYTES, OBJECT)), ("caption", CAPTIONS, (TEXT, BYTES))):
            possible = [name for name in names if there.get(name) in kinds]
            # img2dataset writes the caption under both names.
            twice = set(possible) == {"caption", "txt"} and "key" in there
            if getattr(self, setting) is None and len(possible) > 1 and not twice:
                message = f"columns {' and '.join(possible)} could all be the {setting}; '{possible[0]}' is read. Name the intended one"
                found.append(SettingError(setting, message))
        return found

    def texts_after_images(self, most: int) -> list[str]:
        files = self._found()
        _, caption = self.columns(columns_of(files))
        return [text.strip() for text in texts_of(row[caption] for row in first_rows(files, [caption], most))]

    def contents(self) -> str:
        return digest_files(self._found())

    def make_ready(self, report: Any = None) -> None:
        self.table(report)

    def columns(self, there: dict[str, str]) -> tuple[str, str]:
        """The columns of image and caption, given those that are there."""
        image = self.image or next((name for name in IMAGES if name in there), IMAGES[0])
        return image, self.caption or next((name for name in CAPTIONS if name in there), CAPTIONS[0])

    def table(self, report: Any = None) -> tuple[ParquetRows, str, str, tuple[str, ...]]:
        """The rows; the columns of image and caption; and the others that are needed."""
        files = self._found()
        there = columns_of(files)
        image, caption = self.columns(there)
        others = tuple(dict.fromkeys([*([STATUS] if STATUS in there else []), *self.keep.columns]))
        # Who brings other captions may have images without any.
        needed = dict.fromkeys([image, *([caption] if caption in there else []), *others])
        return open_parquet(files, list(needed), report), image, caption, others

    def join_columns(self) -> set[str]:
        """What recaptions can be joined by."""
        return set(columns_of(self._found()))

    def _found(self) -> list[DataFile]:
        files = found_files(self.files)
        if not are_tables(files):
            raise SettingError("files", f"'{files[0].name}' is JSON lines, which hold no images; expected parquet")
        return files


class OpenImageTextTable:
    """Documents by index: of each row its image, then its caption."""

    def __init__(self, settings: ImageTextTable, name: str) -> None:
        from mm1_ablate.data.decoding import encoded_image  # late: PIL

        self.settings = settings
        self.name = name
        self.rows, self._image, self._caption, self._others = settings.table()
        self._texts = tuple(dict.fromkeys(name for name in (self._caption, *self._others) if name in self.rows.columns))
        self._encoded_image = encoded_image

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bad(self) -> list[Unreadable]:
        """The files that are damaged."""
        return self.rows.bad

    @property
    def losses(self) -> list[Losses]:
        """About how much is lost with them."""
        return self.rows.losses

    def __getitem__(self, index: int) -> Document:
        what = self.rows.place(index)
        values = self.rows.values(index, self._texts)
        image = self._image_of(index, values)
        return self._document(index, image, caption_of(values.get(self._caption), what), values)

    def with_caption(self, index: int, caption: str) -> Document:
        """The document of an index with another caption; its own is not looked at."""
        values = self.rows.values(index, self._others)
        return self._document(index, self._image_of(index, values), caption, values)

    def values(self, column: str) -> Iterator[Any]:
        """Of each document in order what a join can match, a column; None where there is none."""
        rows = open_parquet(self.rows.files, [column])
        for index in range(len(rows)):
            try:
                yield rows[index][column]
            except Unreadable:
                yield None

    def _image_of(self, index: int, values: dict[str, Any]) -> Image:
        what = self.rows.place(index)
        read = bytes_of(self.rows.scalar(index, self._image))
        if read is not None:
            return self._encoded_image(self.rows.key(index), read, what)
        if values.get(STATUS) in NOT_DOWNLOADED:
            raise LeftOut("not downloaded")
        raise Unreadable("no image", what)

    def _document(self, index: int, image: Image, caption: str, values: dict[str, Any]) -> Document:
        columns = {name: values[name] for name in self.settings.keep.columns}
        return Document(self.rows.key(index), self.name, self.settings.data_type, (image, caption), columns)


def bytes_of(value: pa.Scalar) -> Callable[[], bytes] | None:
    """What reads the bytes of an image, given as such or as {bytes, path}; None where there are none, or something else."""
    import pyarrow as pa

    if isinstance(value, pa.StructScalar) and value.is_valid:
        value = value["bytes"] if "bytes" in value else pa.scalar(None)
    # To pyarrow a text is bytes as well.
    is_bytes = isinstance(value, pa.BinaryScalar) and not isinstance(value, pa.StringScalar)
    return value.as_py if is_bytes and value.is_valid else None
