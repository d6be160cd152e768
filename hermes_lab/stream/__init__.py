"""A stream over time: feeding chunks, deciding, asking, forking and recording. `session` is what people use; whatever
looks into a stream from outside (lens, studies, pages) stands above this room."""
