"""Out into the world: a folder for transformers without this package, folders of native architectures, the Hub.

Not here: small checkpoints (models/checkpoint.py), which only this package reads.
"""
