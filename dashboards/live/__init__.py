"""The Live page: a stream that runs or is played back, drawn as it goes, and questions to it.

Here also lie the thread that runs a stream and what is drawn of one moment, which the Why page and the policy lab use.
"""
