"""Policies made of other policies: wrapped, composed of parts, one per band or layer, or behind a gate.

What takes any policy enters; a method of its own does not.
"""
