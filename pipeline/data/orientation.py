"""Which way up a picture is, by its EXIF.

jpeg_orientation(data)                    # 1 to 8, from the segments before the pixels
orientation_of(image)                     # of an image that Pillow has loaded
"""

from __future__ import annotations

from PIL import ExifTags, Image

MAX_SEGMENTS = 1000
"""Of a JPEG, among which its EXIF is looked for."""
XMP = b"http://ns.adobe.com/xap/1.0/\0"
SCAN, FILLING, APPLICATION = b"\xda", b"\xff", b"\xe1"
"""Markers: the pixels begin, nothing, and where EXIF and XMP are."""


def jpeg_orientation(data: bytes) -> int:
    """The orientation that a JPEG's EXIF says, 1 to 8; 1 of anything else. What comes before its pixels is read."""
    found: dict[str | tuple[int, int], bytes] = {}
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker = data[at + 1 : at + 2]
        if data[at : at + 1] != FILLING or marker in (b"", SCAN):
            break
        if marker == FILLING:
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        for key, start, skipped in (("exif", b"Exif\0\0", 0), ("xmp", XMP, len(XMP))):
            if marker == APPLICATION and data.startswith(start, at + 4):
                found.setdefault(key, data[at + 4 + skipped : end])
        at = end
    if not found:
        return 1
    header = Image.Image()
    header.info.update(found)
    return orientation_of(header)


def orientation_of(image: Image.Image) -> int:
    """The orientation that an image's EXIF, or else its XMP, says: 1 to 8; 1 where neither can be read."""
    try:
        said = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises anything of a broken EXIF block, and the pixels beside it are whole
        return 1
    return said if isinstance(said, int) and 1 <= said <= 8 else 1
