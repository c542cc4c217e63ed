"""The search: `domains` (the pool), `bab` (the loop), `strategy` (what to run, and why)."""
