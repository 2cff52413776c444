"""Sizes and durations as people write them.  Pure."""

import re

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)\s*([kmgt]?)i?b?", re.I | re.A)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h|d)?", re.I | re.A)
_SIZE_FACTOR = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes from ``512m``, ``2G``, ``1.5GiB``, ``4096``; units are powers of 1024.

    Raises ValueError for anything else, including zero: no limit that is zero bytes is meant.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _SIZE_FACTOR[match[2].lower()]) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size (write 512m, 2g, 1.5GiB)")
    return size


def parse_duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``5m``, ``1.5h``, ``30d``, ``200ms``.  Raises ValueError for anything else or zero."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[(match[2] or "s").lower()] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a duration (write 90s, 5m, 1h)")
    return seconds


def format_size(size: float) -> str:
    """A size for people: ``518M``, ``2.5G``, ``0``; three significant digits, powers of 1024."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size >= factor:
            value = size / factor
            return f"{value:.1f}{unit}" if value < 10 and round(value, 1) != int(value) else f"{value:.0f}{unit}"
    return f"{size:.0f}"


def format_duration(seconds: float) -> str:
    """A duration for people: ``35 ms``, ``1.24 s``, ``5 min 3 s``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
