"""One pass of new tokens through a decoder over a ragged KV cache. `upstream` is the only door to transformers' decoders;
nothing here knows of policies, streams over time, or recordings."""
