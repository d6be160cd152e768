"""The Why page: the life of one token, decision by decision. What is said of single tokens belongs here."""
