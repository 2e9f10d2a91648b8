"""jitterprof: why was this inference request slow?"""

__version__ = "0.1.0"
