"""HERMES Lab: what does a video model remember, and where?"""

from __future__ import annotations
