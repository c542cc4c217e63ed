"""Suites: many instances, each in a process of its own, on this machine or on a cluster.

    suites    what there is to run: instances.csv, or models and properties by name
    jobs      one instance as a message, and what a process does with it
    server    a small process with torch loaded that starts jobs, watches over them, and ends them
    store     the folder of results: what is in it is never lost, never doubled
    display   what a person sees meanwhile
    command   `verify bench`: brings these together
    cluster   the same jobs on a Dask cluster
    cubes     one hard instance in pieces, on a Dask cluster

The process that runs a suite imports no torch; the server does.
"""
