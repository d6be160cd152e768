"""Quality (accuracy by memory horizon) and performance (time, memory), each printed by one command.

What measures a model under a policy from outside enters, on sessions that anybody could make. How the shipped models were
trained does not.
"""
