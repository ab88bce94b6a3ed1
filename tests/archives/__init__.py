"""How the original archives of public data sets are laid out, a file for each kind; entered in converters.ARCHIVES."""

from archives import events, music, sound, speech, spoken

__all__ = ["events", "music", "sound", "speech", "spoken"]
