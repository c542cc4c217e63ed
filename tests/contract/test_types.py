"""Every operator with every element type at every opset: forward is the runtime's, bounds enclose it (see `typed`)."""

from __future__ import annotations

import pytest
from typed import combinations, results, table

SHARE = 0.15  # of combinations that may be refused
SOME = 90


def check(some) -> None:
    found = list(results(some))
    refused = [(c, why) for c, (kind, why) in found if kind == "refused"]
    print(table(refused))
    bad = [f"{c}: {kind}: {why}" for c, (kind, why) in found if kind not in ("right", "refused")]
    assert not bad, "\n".join(bad)
    assert len(found) > len(some) / 4 and len(refused) <= SHARE * len(found) + 3, table(refused)


def test_some_combinations():
    check(combinations()[7::SOME])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_combinations():
    check(combinations())
