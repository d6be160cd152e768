"""One compression of the KV cache.

What a policy is shown enters, what it answers, the checks, and applying the answer. Nothing here knows of sessions or of
time beyond the step that is decided.
"""
