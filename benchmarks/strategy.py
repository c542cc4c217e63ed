"""What the parts of the strategy are worth: the same instances with one of them left out, in one table per folder
(`compared`).

    default        all of it
    no probes      the search that the problem's size suggests runs alone, however it gets on
    input          input dimensions are split, whatever the problem
    neurons        neurons are split, whatever the problem
    no terms       sums of small networks are searched like any other network
    no attack      counterexamples come from the search's own candidates
    no glance      nothing is attacked before the first bounds
    no sweep       places of few dimensions are not tried one by one
    no polish      attacks end with their last gradient step
    float32        no search is in float64, whatever the margins

usage: python benchmarks/strategy.py FOLDER… [--cap 120] [--ways default,neurons,…] [--only 3,17] [--cpu] [-v]
"""

from compared import Way, Without, compare

from verifier.attack.pgd import Attack
from verifier.search import strategy
from verifier.search.falsify import Falsifier
from verifier.search.portfolio import Portfolio


class First(Portfolio):
    """A portfolio of the first member."""

    def __init__(self, members, deadline, listener):
        super().__init__(dict([next(iter(members.items()))]), deadline, listener)


def leave(*args, **settings) -> None:
    """In place of what is left out."""


def unpolished(self, x, l, u, region, aim, deadline):
    return self.probe(x, region)


WAYS = {
    "default": Way(),
    "no probes": Way(within=Without((strategy, {"Portfolio": First}))),
    "input": Way(("search.split=input",)),
    "neurons": Way(("search.split=neurons",)),
    "no terms": Way(within=Without((strategy.SumSearch, {"fits": lambda *a: False}))),
    "no attack": Way(("attack.method=none",)),
    "no glance": Way(within=Without((Falsifier, {"glance": leave}))),
    "no sweep": Way(within=Without((Falsifier, {"_sweep": leave}))),
    "no polish": Way(within=Without((Attack, {"_polish": unpolished}))),
    "float32": Way(("precision=float32",)),
}

if __name__ == "__main__":
    compare("what the parts of the strategy are worth", WAYS)
