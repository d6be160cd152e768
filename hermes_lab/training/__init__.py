"""How the shipped `pocket` models were trained, and examined. Nothing at run time needs this room but two commands.

Recipes, data, losses and optimisers enter; it reads worlds and models, and nobody reads it.
"""
