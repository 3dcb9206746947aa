#!/usr/bin/env python3
"""Writes keeper/src/canonical/printable.rs: the code points that Python's str.isprintable() refuses, as ranges."""
import pathlib
import unicodedata

ranges, start = [], None
for code in range(0x110001):
    hidden = code < 0x110000 and not chr(code).isprintable()
    if hidden and start is None:
        start = code
    elif not hidden and start is not None:
        ranges.append((start, code - 1))
        start = None

lines, line = [], "   "
for first, last in ranges:
    item = f" ({first:#x}, {last:#x}),"
    if len(line) + len(item) > 120:
        lines.append(line)
        line = "   "
    line += item
lines.append(line)

target = pathlib.Path(__file__).resolve().parents[2] / "keeper/src/canonical/printable.rs"
target.write_text(f"""//! Which code points Python's `repr` prints as they are. Written by script/vectors/printable.py (Unicode {unicodedata.unidata_version}).

/// Whether Python's `str.isprintable` holds for a code point.
pub fn is_printable(code: u32) -> bool {{
    let next = HIDDEN.partition_point(|(first, _)| *first <= code);
    next.checked_sub(1).and_then(|i| HIDDEN.get(i)).is_none_or(|(_, last)| *last < code)
}}

/// First and last code point of every run that is not printable.
#[rustfmt::skip]
static HIDDEN: [(u32, u32); {len(ranges)}] = [
""" + "\n".join(lines) + "\n];\n")
