"""Audio language models that transformers has itself, trained and asked by the same rows, stages and commands.

table.py        which there are, where their parts are, how much of a clip they hear
processing.py   the model's own processor makes placeholders and features; prompts are written by our renderer
modeling.py     a thin module around the model: our loss, and its parts by our names
loading.py      from a public checkpoint or from one of ours
"""
