"""The Attention atlas: every head of every layer beside its null."""
