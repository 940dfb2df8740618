"""Sources of documents: one file for each format, each with the settings that a user declares.

A source is a subclass of `mm1_ablate.config.data.Source` with `open(seed, name)`, which gives random access to its documents;
their order, the epochs and the shares are the mixture's. The shortest way to a new format is a subclass of
`mm1_ablate.data.file_source.FileSource` with one method, in one file here or in a package of its own (see docs/data.md).
Files whose names begin with an underscore are what several formats share.
"""

from __future__ import annotations

from typing import Protocol

from mm1_ablate.data.documents import Document


class OpenSource(Protocol):
    """Documents by index. Index i of one epoch is the same document whenever it is asked for.

    It may have an attribute `losses`: what of its files cannot be read (`data.lost_documents.Losses`). What stands in the documents'
    place is then a `KnownLoss`.
    """

    def __len__(self) -> int:
        """Documents of one epoch."""
        ...

    def __getitem__(self, index: int) -> Document:
        """The document of an index.

        Raises:
            Unreadable: it is bad data.
            LeftOut: the settings do not keep it.
        """
        ...
