"""How the shipped `pocket` models were trained. Nothing at run time needs this room; it reads worlds and models."""
