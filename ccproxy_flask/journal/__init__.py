"""The queue on disk between the workers and the recorder: append, read, follow.

One line for the start and one for the end of each request, in append-only segments of NDJSON.
A record exists once its line is written; nothing in memory is lost with a process.
"""

from .events import Feed, Subscription, TooManyWatchers
from .writer import JournalWriter

__all__ = ["Feed", "JournalWriter", "Subscription", "TooManyWatchers"]
