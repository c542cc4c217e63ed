"""What the parts of the search over neuron splits are worth: the same instances with one of them left out or replaced,
in one table per folder (`compared`).

    default        all of it
    no beta        multipliers of splits stay where they begin
    no clauses     nothing is learned from refuted cases
    no leaf LP     cases with nothing left to split are given up, not solved
    no refining    bounds of intermediate values are optimised, but not branched on
    no clipping    no half-space tightens the intervals of neurons
    babsr          the neuron is picked by its score alone, without trials

usage: python benchmarks/splitting.py FOLDER… [--cap 120] [--ways default,babsr,…] [--only 3,17] [--cpu] [-v]
"""

from dataclasses import replace

from compared import Way, Without, compare

from verifier.search import neurons, refine


def still(module, *names: str) -> tuple[object, dict]:
    """Optimiser settings of a module with multipliers of splits that do not move."""
    return module, {name: replace(getattr(module, name), beta_rate=0.0) for name in names}


WAYS = {
    "default": Way(),
    "no beta": Way(within=Without(still(neurons, "ROOT", "LEAF", "ROUND"), still(refine, "ROUND", "LAST"))),
    "no clauses": Way(("search.clauses=false",)),
    "no leaf LP": Way(within=Without((neurons, {"solve_leaf": lambda *a: None}))),
    "no refining": Way(("search.refine=false",)),
    "no clipping": Way(("clip.method=none",)),
    "babsr": Way(("branching.neurons=babsr",)),
}

if __name__ == "__main__":
    compare("what the parts of splitting neurons are worth", WAYS)
