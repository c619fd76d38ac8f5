"""Changes of the tables, oldest first, as Alembic revisions in `versions`; run by `edgebench.store.opening`.

A new one is written by hand: a file `versions/rNNNN_what.py` with the next number, `base.REVISION` raised to
it, its line in the history there. It says all it does in `op` calls and never imports `base`, which will have
moved on by the time it runs.
"""
