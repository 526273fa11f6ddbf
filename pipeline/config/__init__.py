"""From the command line and Hydra to plain, checked settings. Only this room and the command import Hydra."""
