"""Labelled data from files, tables or the hub, turned into examples and targets.

The modules read, check, describe and tokenise the data. None of them needs JAX.
"""
