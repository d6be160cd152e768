"""The Attention atlas: every head of every layer beside its null. What is drawn of recorded attention belongs here."""
