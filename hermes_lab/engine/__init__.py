"""One pass of new tokens through a decoder over a ragged KV cache.

What a forward pass is made of enters: attention, cache, rotary tables, hooks. `upstream` is the only door to transformers'
decoders. Nothing here knows of policies, streams over time, or recordings.
"""
