"""A stream over time: feeding chunks, deciding, asking, forking and recording. `session` is what people use.

What happens from one chunk to the next enters. Whatever looks into a stream from outside (lens, studies, pages) stands
above this room.
"""
