"""From a picture, or a JPEG on the device, to what a network takes."""
