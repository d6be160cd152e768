"""The room of studies: questions about a streaming model's memory, each with its claims, nulls, verdicts and figures.

What may enter: one file for each study (and one beside it for a long measurement), and what several studies share. It
imports `hermes_lab`; only the command line and the dashboards import it.
"""
