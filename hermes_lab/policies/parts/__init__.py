"""What several policies share: scores, blocks of frames, folding, retrieval, thresholds and quantised archives.

Functions of views and tensors enter, with the contract (`policies.base`) as all that they know; no policy does.
"""
