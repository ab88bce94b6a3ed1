"""Audio language models from parts: build, train in stages, judge, chat."""

__version__ = "0.1.0"
