"""The Policy lab: one stream under several policies at equal budgets. The comparison itself knows no Streamlit."""
