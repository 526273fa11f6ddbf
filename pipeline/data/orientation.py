"""Reading the EXIF orientation of a picture, 1 to 8.

jpeg_orientation(data)                    # from the bytes of a JPEG, without decoding it
orientation_of(image)                     # from an image that Pillow has loaded
"""

from __future__ import annotations

from PIL import ExifTags, Image

MAX_SEGMENTS = 1000
"""Number of segments of a JPEG that are searched for EXIF."""
XMP = b"http://ns.adobe.com/xap/1.0/\0"
SCAN, FILLING, APPLICATION = b"\xda", b"\xff", b"\xe1"
"""Second bytes of JPEG markers: the start of the pixels, a fill byte, and the segment that holds EXIF or XMP."""


def jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 to 8, from the segments before its pixels; 1 for anything else."""
    blocks: dict[str | tuple[int, int], bytes] = {}
    position = 2
    for _ in range(MAX_SEGMENTS):
        marker = data[position + 1 : position + 2]
        if data[position : position + 1] != FILLING or marker in (b"", SCAN):
            break
        if marker == FILLING:
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        for key, start, skipped in (("exif", b"Exif\0\0", 0), ("xmp", XMP, len(XMP))):
            if marker == APPLICATION and data.startswith(start, position + 4):
                blocks.setdefault(key, data[position + 4 + skipped : end])
        position = end
    if not blocks:
        return 1
    header = Image.Image()
    header.info.update(blocks)
    return orientation_of(header)


def orientation_of(image: Image.Image) -> int:
    """The orientation in an image's EXIF or, without EXIF, in its XMP: 1 to 8. 1 if neither can be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # for a broken EXIF block Pillow can raise any exception, although the pixels are intact
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
