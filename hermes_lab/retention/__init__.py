"""One compression of the KV cache: what a policy is shown, what it answers, the checks, and applying the answer.
Nothing here knows of sessions or of time beyond the step that is decided."""
