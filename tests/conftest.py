"""What many tests share: tiny models and processors, made on the spot."""
