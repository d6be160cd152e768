"""Inputs that somebody damaged or made to do harm, drawn at random: what must hold of each, and how they are made.

A case is a set of small files laid over a sound input of its kind (see `cases`). Whatever a case does, the answer must
be right or a LabError in one sentence: never a traceback, a hang, a file written elsewhere or garbage in silence.
`scripts/fuzz.py` draws cases; those that once failed lie in tests/corpus and are run by tests/unit/test_corpus.py.
"""
