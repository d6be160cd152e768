"""The Policy lab: one stream under several policies at equal budgets."""
