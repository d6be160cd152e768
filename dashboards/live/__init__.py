"""The Live page: a stream that runs or is played back, drawn as it goes, and questions to it."""
