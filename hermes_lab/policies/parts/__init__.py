"""What several policies share: scores, blocks of frames, thresholds and quantised archives. No policies."""
