"""What holds for every test. Tiny models and clips are in tiny.py, chat templates in chat_templates.py."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything is imported that reads it: no test downloads
