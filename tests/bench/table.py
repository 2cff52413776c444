"""Samples to medians, ratios and JSON, the same way for every benchmark."""

import json
import os
import platform
import statistics
from pathlib import Path


def publish(name: str, unit: str, samples: dict[str, list[float]], baseline: str, file: Path, notes: dict[str, float]) -> None:
    """Print a table of p50 and p95 and their ratios to ``baseline``; write everything to ``file`` as JSON."""
    figures = {
        variant: {"p50": statistics.median(values), "p95": statistics.quantiles(values, n=20)[-1], "n": len(values)}
        for variant, values in samples.items()
    }
    base = figures[baseline]
    ratios = {variant: {key: one[key] / base[key] for key in ("p50", "p95")} for variant, one in figures.items()}
    print(f"{name} on {os.uname().release}, {os.cpu_count()} processors ({unit})")
    print(f"{'variant':28} {'n':>5} {'p50':>9} {'p95':>9} {'p50 ratio':>10} {'p95 ratio':>10}")
    for variant, one in figures.items():
        ratio = ratios[variant]
        print(f"{variant:28} {one['n']:5.0f} {one['p50']:9.2f} {one['p95']:9.2f} {ratio['p50']:10.2f} {ratio['p95']:10.2f}")
    for note, value in notes.items():
        print(f"{note}: {value:.2f}")
    result = {
        "name": name, "unit": unit, "machine": platform.processor() or platform.machine(), "processors": os.cpu_count(), "kernel": os.uname().release,
        "baseline": baseline, "variants": figures, "ratios": ratios, "notes": notes, "samples": samples,
    }  # fmt: skip
    file.write_text(json.dumps(result, indent=1) + "\n")
