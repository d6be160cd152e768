"""The Why page: the life of one token, decision by decision."""
