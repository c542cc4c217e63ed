"""What clipping is worth: the same instances with every way of clipping, in one table per folder (`compared`). Attacks
run only once, so that they do not decide how many domains there are.

usage: python benchmarks/clipping.py FOLDER… [--cap 120] [--ways none,relaxed,…] [--only 3,17] [--cpu] [-v]
"""

from compared import Way, compare

METHODS = ("none", "relaxed", "reordered", "complete", "all")

if __name__ == "__main__":
    compare("what clipping is worth", {m: Way(("attack.share=0", f"clip.method={m}")) for m in METHODS})
