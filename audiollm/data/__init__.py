"""From rows to batches: foreign formats and sources, sampling, packing of questions that share audio, collation."""
