"""The pages of the dashboard, one folder for each. Imports the library and `analysis`; nothing imports it.

A page is `page.py` (what is drawn, from top to bottom), `panels.py` (its parts) and modules for what it alone knows. What
two pages need lies in `parts/`, what runs in the browser in `browser/`.
"""
