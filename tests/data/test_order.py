"""The order in which sources are declared changes nothing, as it is no part of a trial's identity."""

from __future__ import annotations

from itertools import islice

from tiny import tiny_experiment

from mm1_ablate.data.mixture import Mixture


def test_the_order_in_which_sources_are_declared_changes_no_document():
    data = tiny_experiment().data
    shares = data.shares()

    def keys(names: list[str]) -> list[str]:
        ordered = {name: shares[name] for name in names}
        sources = {name: data.sources[name].open(0, name) for name in names}
        return [document.key for document in islice(Mixture(ordered, sources), 60)]

    assert keys(sorted(shares)) == keys(sorted(shares, reverse=True))
