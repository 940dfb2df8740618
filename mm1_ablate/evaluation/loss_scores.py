"""What was measured on held-out documents (`held_out_loss.py`) as item scores, a document each. No torch: it can be done again anywhere."""

from __future__ import annotations

from math import log

import pandas

LOSS_COLUMNS = ["loss", "place", "document", "data_type", "nats", "tokens", "text_nats", "bytes", "problem"]


def loss_items(documents: pandas.DataFrame, evaluation_seed: int) -> pandas.DataFrame:
    """Item scores of measured documents, in columns of `scores.COLUMNS` (family "loss"): `loss` in nats per token and `bits_per_byte`.

    A score is a document's sum over the mean length of all documents, so that the mean of scores is the sum of all over the length of all.
    """
    tables = []
    for name, rows in documents.groupby("loss", sort=False):
        rows = rows.sort_values("place", kind="stable")
        measured = rows["problem"] == ""
        if not measured.any():
            raise ValueError(f"evaluation.losses.{name}: no document could be read: {'; '.join(rows['problem'].drop_duplicates()[:3])}")
        for metric, sums, lengths in (("loss", rows["nats"], rows["tokens"]), ("bits_per_byte", rows["text_nats"] / log(2), rows["bytes"])):
            if not lengths[measured].sum():
                continue
            tables.append(
                pandas.DataFrame(
                    {
                        "task": name,
                        "family": "loss",
                        "shots": 0,
                        "evaluation_seed": evaluation_seed,
                        "item": rows["document"],
                        "group": rows["data_type"],
                        "problem": rows["problem"],
                        "metric": metric,
                        "primary": True,
                        "score": (sums / lengths[measured].mean()).where(measured),
                    }
                )
            )
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame()
